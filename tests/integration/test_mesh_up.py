"""`tenantry up` as a person runs it: one command, clear steps, and nothing left behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from services.cli.local.layout import StateLayout

pytestmark = [pytest.mark.integration, pytest.mark.mesh]

TENANTRY = Path(sys.executable).with_name("tenantry")


def processes_of(marker: str) -> list[int]:
    """Processes whose command line or environment names a state directory."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            text = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
        except OSError:
            continue
        if marker.encode() in text:
            found.append(int(folder.name))
    return found


def shared_memory(state: Path) -> list[str]:
    prefix = StateLayout(state, state, state).shm_prefix
    return [path.name for path in Path("/dev/shm").iterdir() if path.name.startswith(prefix)]


@pytest.mark.timeout(180)
async def test_once_does_everything_and_exits_zero(tmp_path):
    state = tmp_path / "state"
    process = await asyncio.create_subprocess_exec(
        str(TENANTRY), "up", "--once", "--json", "--state-dir", str(state),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 170)
    assert process.returncode == 0, err.decode()[-4000:]
    steps = [json.loads(line) for line in out.decode().splitlines()]
    assert all(step["ok"] for step in steps)
    answers = [step for step in steps if step["step"] == "answer"]
    assert len(answers) == 3
    assert len({answer["adapter"] for answer in answers}) == 3
    assert {"export", "verify"} <= {step["step"] for step in steps}
    assert not processes_of(str(state))
    assert not shared_memory(state)
    assert not [path for path in state.rglob("*") if path.is_socket()]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_stops_everything_within_five_seconds(tmp_path, number):
    state = tmp_path / "state"
    process = await asyncio.create_subprocess_exec(
        str(TENANTRY), "up", "--ephemeral", "--json", "--state-dir", str(state),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    async with asyncio.timeout(170):
        async for line in process.stdout:
            if json.loads(line)["step"] == "ready":
                break
    assert processes_of(str(state))
    [folder] = state.glob("tenantry-*")
    assert shared_memory(folder)
    sent = time.monotonic()
    process.send_signal(number)
    await asyncio.wait_for(process.wait(), 10)
    assert time.monotonic() - sent < 5
    assert not processes_of(str(state))
    assert not shared_memory(folder)
    assert not list(state.glob("tenantry-*"))
