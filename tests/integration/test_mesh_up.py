"""`tenantry up` as a person runs it: one command, clear steps, and nothing left behind."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services.local.layout import StateLayout
from services.local.profile import load_endpoints
from tests.fakes.dispositions import STOPPING, in_child
from tests.fakes.patience import promised
from tests.integration.mesh_access import Access, bearer, question

pytestmark = [pytest.mark.integration, pytest.mark.mesh]

TENANTRY = Path(sys.executable).with_name("tenantry")
STOP_SECONDS = 5.0


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


def require_nothing_left(state: Path) -> None:
    assert not processes_of(str(state))
    assert not shared_memory(state)
    assert not [path for path in state.rglob("*") if path.is_socket()]
    assert not (state / "endpoints.json").exists()


class Up:
    """A running `tenantry up --json`, in a process group of its own as under a terminal."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.steps: list[dict] = []

    async def until(self, step: str) -> None:
        """Read its steps until this one."""
        assert self._process.stdout is not None
        async with asyncio.timeout(120):
            async for line in self._process.stdout:
                self.steps.append(json.loads(line))
                if self.steps[-1]["step"] == step:
                    return
        raise AssertionError(f"it ended before the step {step}: {self.steps}")

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the whole group."""
        os.killpg(self._process.pid, number)

    def ignores(self, number: signal.Signals) -> bool:
        """Whether the running process ignores a signal."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        [mask] = [line.split()[1] for line in status.splitlines() if line.startswith("SigIgn:")]
        return bool(int(mask, 16) >> (number - 1) & 1)

    async def stop(self, number: signal.Signals) -> int:
        """Send a signal to the whole group; its exit status, in time."""
        self.send(number)
        sent = time.monotonic()
        status = await asyncio.wait_for(self._process.wait(), 60)
        assert time.monotonic() - sent < promised(STOP_SECONDS)
        return status


@asynccontextmanager
async def up(state: Path, *options: str, ignored: tuple[signal.Signals, ...] = ()):
    process = await asyncio.create_subprocess_exec(
        str(TENANTRY), "up", "--json", "--state-dir", str(state), *options,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, start_new_session=True,
        preexec_fn=in_child(ignored),
    )  # fmt: skip
    try:
        yield Up(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def tenantry(state: Path, *arguments: str) -> str:
    command = [str(TENANTRY), *arguments, "--state-dir", str(state)]
    finished = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.fixture
def state(tmp_path, prepared_model):
    """A state directory with a model in it: preparing one is for the test that starts from nothing."""
    folder = tmp_path / "state"
    folder.mkdir()
    (folder / "models").symlink_to(prepared_model.directory.parent)
    return folder


@pytest.mark.timeout(360)
async def test_once_does_everything_and_exits_zero(tmp_path):
    state = tmp_path / "state"
    process = await asyncio.create_subprocess_exec(
        str(TENANTRY), "up", "--once", "--json", "--state-dir", str(state),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 350)
    assert process.returncode == 0, (out.decode()[-1000:], err.decode()[-4000:])
    steps = [json.loads(line) for line in out.decode().splitlines()]
    assert all(step["ok"] for step in steps)
    names = [step["step"] for step in steps]
    assert names == [
        "needs", "start", "provision", "triton", *["answer"] * 3, "ready", "export", "verify", "stop",
    ]  # fmt: skip
    answers = [step for step in steps if step["step"] == "answer"]
    assert len({answer["adapter"] for answer in answers}) == 3
    require_nothing_left(state)


@pytest.mark.timeout(240)
async def test_a_kept_mesh_comes_back_whatever_was_done_to_its_tenants(state):
    async with up(state) as first:
        await first.until("ready")
        assert shared_memory(state)
        tenantry(state, "tenant", "suspend", "acme", "--reason", "a test")
        [key] = [json.loads(line) for line in tenantry(state, "key", "list", "globex", "--json").splitlines()]
        tenantry(state, "key", "revoke", "globex", key["name"].rsplit("/", 1)[-1])
        async with streaming(state, "initech"):
            assert await first.stop(signal.SIGINT) == 0
    require_nothing_left(state)
    async with up(state) as second:
        await second.until("ready")
        answers = {step["tenant"]: step for step in second.steps if step["step"] == "answer"}
        assert [answers[tenant]["ok"] for tenant in ("acme", "globex", "initech")] == [False, True, True]
        assert answers["acme"]["reason"] == "TENANT_SUSPENDED"
        assert answers["acme"]["command"] == "tenantry tenant resume acme"
        tenantry(state, "tenant", "resume", "acme", "--wait")
        assert tenantry(state, "chat", "Hello", "--tenant", "acme")
        assert await second.stop(signal.SIGHUP) == 0
    require_nothing_left(state)


@asynccontextmanager
async def streaming(state, tenant):
    """A caller that is being answered, at length."""
    endpoints = load_endpoints(state)
    assert endpoints is not None
    assert endpoints.ca_path is not None
    key = endpoints.keys[tenant].read_text().strip()
    async with Access(endpoints.tenant_address, endpoints.operations_address, endpoints.ca_path) as access:
        request = question("Tell me a very long story.")
        request.parameters.max_output_tokens = 512
        call = access.inference.StreamGenerate(request, metadata=bearer(key), timeout=60)
        await call.read()
        try:
            yield
        finally:
            call.cancel()


@asynccontextmanager
async def starting(state, prepared_model, ignored=()):
    """A start that is under way and gets no further."""
    # Held: the model's preparation waits, as it would for another `up`.
    with prepared_model.directory.with_name(f".{prepared_model.directory.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        async with up(state, "--ephemeral", ignored=ignored) as started:
            await started.until("needs")
            async with asyncio.timeout(60):
                while len(processes_of(str(state))) < 4:  # noqa: ASYNC110 another process's state has no event
                    await asyncio.sleep(0.05)
            yield started


@pytest.mark.parametrize("number", STOPPING)
async def test_a_start_can_be_stopped(state, prepared_model, number):
    async with starting(state, prepared_model) as started:
        assert await started.stop(number) == 0
    assert not processes_of(str(state))
    assert not list(state.glob("tenantry-*"))


async def test_nohup_is_heeded_and_another_signal_still_stops(state, prepared_model):
    async with starting(state, prepared_model, ignored=(signal.SIGHUP,)) as started:
        started.send(signal.SIGHUP)
        # The kernel drops what a process ignores, so there is nothing to wait for.
        assert started.ignores(signal.SIGHUP)
        assert await started.stop(signal.SIGTERM) == 0
    assert not processes_of(str(state))
