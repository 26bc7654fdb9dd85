"""Supervised processes: started again, killed, stopped with their children, and never outliving the supervisor."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from services.local import process as process_module
from services.local.process import ProcessFailedError, ProcessSpec
from services.local.supervisor import Supervisor
from tests.fakes.patience import PATIENCE_SECONDS, promised

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


async def until(condition, seconds=PATIENCE_SECONDS):
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
    await supervisor.start(parent_spec(tmp_path / "pids")).wait_ready(PATIENCE_SECONDS)
    said = f"hello from {pids_in(tmp_path / 'pids')[0]}"
    await until(lambda: ("parent", said) in lines)
    assert said in (tmp_path / "logs" / "parent.log").read_text()


async def test_one_that_dies_comes_back(supervisor, tmp_path):
    pids = tmp_path / "pids"
    process = supervisor.start(parent_spec(pids))
    await process.wait_ready(PATIENCE_SECONDS)
    first = pids_in(pids)
    os.kill(first[0], signal.SIGKILL)
    await until(lambda: pids.exists() and pids_in(pids)[0] != first[0])
    await process.wait_ready(PATIENCE_SECONDS)
    assert not any(alive(pid) for pid in first), "its child was left behind"


async def test_killed_stays_down_until_started(supervisor, tmp_path):
    pids = tmp_path / "pids"
    process = supervisor.start(parent_spec(pids))
    await process.wait_ready(PATIENCE_SECONDS)
    first = pids_in(pids)
    await process.kill()
    assert process.pid is None
    await until(lambda: not any(alive(pid) for pid in first))
    with pytest.raises(ProcessFailedError):
        await process.wait_ready(0.5)
    process.start()
    await process.wait_ready(PATIENCE_SECONDS)
    assert pids_in(pids)[0] != first[0]


@pytest.mark.parametrize("stubborn", [False, True])
async def test_stop_takes_the_whole_group(tmp_path, stubborn):
    pids = tmp_path / "pids"
    async with Supervisor(tmp_path / "logs", lambda name, line: None, []) as supervisor:
        await supervisor.start(parent_spec(pids, stubborn=stubborn)).wait_ready(PATIENCE_SECONDS)
        started = pids_in(pids)
    await until(lambda: not any(alive(pid) for pid in started))
    assert not pids.exists(), "what it leaves behind is cleared after its end"


async def test_one_that_never_gets_ready_is_named_with_its_last_words(supervisor, tmp_path):
    async def never():
        return False

    words = "import sys; sys.exit('no such luck')"
    spec = ProcessSpec("poor", [sys.executable, "-c", words], {"PATH": os.defpath}, never)
    with pytest.raises(ProcessFailedError, match="poor keeps ending") as failure:
        await supervisor.start(spec).wait_ready(20)
    assert "no such luck" in failure.value.last_lines


async def test_one_that_cannot_be_started_is_named_and_tried_again(supervisor, tmp_path, lines):
    process = supervisor.start(replace(parent_spec(tmp_path / "pids"), argv=["/nowhere/at-all"]))
    with pytest.raises(ProcessFailedError, match="parent keeps ending") as failure:
        await process.wait_ready(20)
    assert "No such file or directory" in failure.value.last_lines[0]
    assert len([line for name, line in lines if "could not be run" in line]) >= 3
    async with asyncio.timeout(promised(1)):
        await supervisor.stop()


async def test_what_fails_before_a_start_fails_once(supervisor, tmp_path):
    pids = tmp_path / "pids"
    failures = [OSError("the disk is full")]

    def clear():
        if failures:
            raise failures.pop()

    await supervisor.start(replace(parent_spec(pids), before_start=clear)).wait_ready(PATIENCE_SECONDS)
    assert not failures


async def test_a_log_that_takes_no_lines_does_not_end_the_process_or_its_lines(supervisor, tmp_path, lines):
    pids = tmp_path / "pids"
    (tmp_path / "logs" / "parent.log").mkdir(parents=True)
    process = supervisor.start(parent_spec(pids))
    await process.wait_ready(PATIENCE_SECONDS)
    await until(lambda: any(line.startswith("hello from") for _, line in lines))
    assert len([line for _, line in lines if "takes no lines" in line]) == 1
    assert process.pid == pids_in(pids)[0]


async def test_a_viewer_that_fails_does_not_end_the_process(tmp_path):
    pids, seen = tmp_path / "pids", []

    def show(name, line):
        seen.append(line)
        raise RuntimeError("no screen")

    async with Supervisor(tmp_path / "logs", show, []) as supervisor:
        process = supervisor.start(parent_spec(pids))
        await process.wait_ready(PATIENCE_SECONDS)
        await until(lambda: seen)
        os.kill(pids_in(pids)[0], signal.SIGKILL)
        await until(lambda: len(seen) > 2)
        await process.wait_ready(PATIENCE_SECONDS)


async def test_stopping_does_not_wait_for_the_next_start(supervisor, tmp_path, monkeypatch):
    monkeypatch.setattr(process_module.Backoff, "next_delay_seconds", lambda _: 60.0)
    spec = replace(parent_spec(tmp_path / "pids"), argv=[sys.executable, "-c", ""])
    process = supervisor.start(spec)
    await until(lambda: process._early_deaths)
    async with asyncio.timeout(promised(1)):
        await supervisor.stop()


async def test_a_start_does_not_wait_for_the_backoff(supervisor, tmp_path, monkeypatch):
    monkeypatch.setattr(process_module.Backoff, "next_delay_seconds", lambda _: 60.0)
    pids = tmp_path / "pids"
    process = supervisor.start(parent_spec(pids))
    await process.wait_ready(PATIENCE_SECONDS)
    os.kill(pids_in(pids)[0], signal.SIGKILL)
    await until(lambda: process._early_deaths)
    await process.kill()
    process.start()
    await process.wait_ready(PATIENCE_SECONDS)


def stuck_in_stages(folder, count):
    return [
        replace(parent_spec(folder / f"{name}", stubborn=True), name=name, stop_seconds=30)
        for name in map(str, range(count))
    ]


async def test_several_that_will_not_stop_share_one_deadline(tmp_path):
    specs = stuck_in_stages(tmp_path, 4)
    supervisor = Supervisor(
        tmp_path / "logs", lambda name, line: None, [[spec.name] for spec in specs], stop_seconds=1
    )
    async with supervisor:
        for spec in specs:
            await supervisor.start(spec).wait_ready(PATIENCE_SECONDS)
        pids = [pid for spec in specs for pid in pids_in(tmp_path / spec.name)]
        async with asyncio.timeout(promised(3)):
            await supervisor.stop()
        await until(lambda: not any(alive(pid) for pid in pids))


async def test_hurry_kills_at_once(tmp_path):
    [spec], hurry = stuck_in_stages(tmp_path, 1), asyncio.Event()
    supervisor = Supervisor(tmp_path / "logs", lambda name, line: None, [], stop_seconds=60, hurry=hurry)
    async with supervisor:
        await supervisor.start(spec).wait_ready(PATIENCE_SECONDS)
        pids = pids_in(tmp_path / spec.name)
        stopping = asyncio.create_task(supervisor.stop())
        await until(supervisor[spec.name]._unwanted.is_set)
        assert not stopping.done()
        hurry.set()
        async with asyncio.timeout(promised(3)):
            await stopping
        await until(lambda: not any(alive(pid) for pid in pids))


SUPERVISOR = """
import asyncio, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from services.local.process import ProcessSpec
from services.local.supervisor import Supervisor
from tests.fakes.patience import PATIENCE_SECONDS

pids = Path(sys.argv[1])

async def ready():
    return pids.exists()

async def main():
    parent = Path(sys.argv[3]).read_text()
    spec = ProcessSpec("parent", [sys.executable, "-c", parent, str(pids)], {"PATH": os.defpath}, ready)
    async with Supervisor(pids.parent / "logs", lambda name, line: None, []) as supervisor:
        await supervisor.start(spec).wait_ready(PATIENCE_SECONDS)
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
        await until(lambda: not alive(parent))
    finally:
        if alive(child):
            os.kill(child, signal.SIGKILL)
