"""Supervised processes: started again, killed, stopped with their children, and never outliving the supervisor."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from services.cli.local.process import ProcessFailedError, ProcessSpec
from services.cli.local.supervisor import Supervisor

pytestmark = pytest.mark.integration

# Writes its pid and its child's where the argument says, then sleeps; the child ignores SIGTERM.
PARENT = """
import os, pathlib, signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import signal, time; "
    "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"],
    stdout=subprocess.PIPE)
child.stdout.readline()
scratch = pathlib.Path(sys.argv[1] + ".scratch")
scratch.write_text(f"{os.getpid()} {child.pid}")
print("hello from", os.getpid(), flush=True)
scratch.rename(sys.argv[1])
if len(sys.argv) > 2:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(600)
"""


def alive(pid):
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False


async def until(condition, seconds=10.0):
    async with asyncio.timeout(seconds):
        while True:
            if condition():
                return
            await asyncio.sleep(0.02)


def parent_spec(pids, *, stubborn=False):
    async def ready():
        return pids.exists()

    return ProcessSpec(
        name="parent",
        argv=[sys.executable, "-c", PARENT, str(pids), *(["stubborn"] if stubborn else [])],
        env={"PATH": os.defpath},
        ready=ready,
        before_start=lambda: pids.unlink(missing_ok=True),
        stop_seconds=0.5,
    )


def pids_in(path):
    return [int(word) for word in path.read_text().split()]


@pytest.fixture
def lines():
    return []


@pytest.fixture
async def supervisor(tmp_path, lines):
    async with Supervisor(tmp_path / "logs", lambda name, line: lines.append((name, line)), []) as running:
        yield running


async def test_its_lines_are_kept_and_shown(supervisor, tmp_path, lines):
    await supervisor.start(parent_spec(tmp_path / "pids")).wait_ready(10)
    said = f"hello from {pids_in(tmp_path / 'pids')[0]}"
    await until(lambda: ("parent", said) in lines)
    assert said in (tmp_path / "logs" / "parent.log").read_text()


async def test_one_that_dies_comes_back(supervisor, tmp_path):
    pids = tmp_path / "pids"
    process = supervisor.start(parent_spec(pids))
    await process.wait_ready(10)
    first = pids_in(pids)
    os.kill(first[0], signal.SIGKILL)
    await until(lambda: pids.exists() and pids_in(pids)[0] != first[0])
    await process.wait_ready(10)
    assert not any(alive(pid) for pid in first), "its child was left behind"


async def test_killed_stays_down_until_started(supervisor, tmp_path):
    pids = tmp_path / "pids"
    process = supervisor.start(parent_spec(pids))
    await process.wait_ready(10)
    first = pids_in(pids)
    await process.kill()
    assert process.pid is None
    await until(lambda: not any(alive(pid) for pid in first))
    with pytest.raises(ProcessFailedError):
        await process.wait_ready(0.5)
    process.start()
    await process.wait_ready(10)
    assert pids_in(pids)[0] != first[0]


@pytest.mark.parametrize("stubborn", [False, True])
async def test_stop_takes_the_whole_group(tmp_path, stubborn):
    pids = tmp_path / "pids"
    async with Supervisor(tmp_path / "logs", lambda name, line: None, []) as supervisor:
        await supervisor.start(parent_spec(pids, stubborn=stubborn)).wait_ready(10)
        started = pids_in(pids)
    await until(lambda: not any(alive(pid) for pid in started), 1)
    assert not pids.exists(), "what it leaves behind is cleared after its end"


async def test_one_that_never_gets_ready_is_named_with_its_last_words(supervisor, tmp_path):
    async def never():
        return False

    words = "import sys; sys.exit('no such luck')"
    spec = ProcessSpec("poor", [sys.executable, "-c", words], {"PATH": os.defpath}, never)
    with pytest.raises(ProcessFailedError, match="poor keeps ending") as failure:
        await supervisor.start(spec).wait_ready(20)
    assert "no such luck" in failure.value.last_lines


SUPERVISOR = """
import asyncio, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from services.cli.local.process import ProcessSpec
from services.cli.local.supervisor import Supervisor

pids = Path(sys.argv[1])

async def ready():
    return pids.exists()

async def main():
    parent = Path(sys.argv[3]).read_text()
    spec = ProcessSpec("parent", [sys.executable, "-c", parent, str(pids)], {"PATH": os.defpath}, ready)
    async with Supervisor(pids.parent / "logs", lambda name, line: None, []) as supervisor:
        await supervisor.start(spec).wait_ready(10)
        await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_a_killed_supervisor_takes_its_processes_with_it(tmp_path):
    pids, script = tmp_path / "pids", tmp_path / "parent.py"
    script.write_text(PARENT)
    repository = Path(__file__).parents[2]
    supervisor = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SUPERVISOR, str(pids), str(repository), str(script)
    )
    await until(pids.exists)
    parent, child = pids_in(pids)
    try:
        supervisor.kill()
        await supervisor.wait()
        # The parent goes by the kernel's hand; a grandchild is its own program's duty, as the twin's stub shows.
        await until(lambda: not alive(parent), 3)
    finally:
        if alive(child):
            os.kill(child, signal.SIGKILL)
