"""A run in which something hangs ends by itself: shown with runs of pytest over tests that hang, one kind each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.run_limit import LIMIT_STATUS

REPOSITORY = Path(__file__).parents[2]
LIMIT_SECONDS = 12
ENDS_WITHIN_SECONDS = 110
SWALLOWS = """
async def swallows_cancellation():
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass
"""


@dataclass(frozen=True)
class Hang:
    """A test file that hangs, what its run must print, and with which statuses the run may end."""

    source: str
    shown: tuple[str, ...]
    options: tuple[str, ...] = ()
    statuses: tuple[int, ...] = (LIMIT_STATUS,)


HANGS = {
    "a test": Hang(
        "import threading\ndef test_waits():\n    threading.Event().wait()\n",
        ("run limit", "in test_waits", "test_a.py::test_waits"),
    ),
    "a test of a worker": Hang(
        "async def inner():\n    await asyncio.Event().wait()\nasync def test_waits():\n    await inner()\n",
        ("run limit", "gw0 ====", "in test_waits", "in inner", "test_a.py::test_waits"),
        ("-n", "1"),
        # The main process has a few seconds to say which worker was lost, and ends in any case.
        (1, LIMIT_STATUS),
    ),
    "the teardown of a fixture": Hang(
        "@pytest.fixture\nasync def held():\n    yield 1\n    await asyncio.Event().wait()\n"
        "async def test_passes(held):\n    pass\n",
        ("run limit", "in held", "test_a.py::test_passes"),
    ),
    "a task that swallows cancellation": Hang(
        f"{SWALLOWS}async def test_passes():\n"
        "    task = asyncio.create_task(swallows_cancellation())\n    await asyncio.sleep(0)\n",
        ("run limit", "in swallows_cancellation", "cancelled 1 times"),
    ),
    "collection": Hang(
        "import time\ndef waits():\n    time.sleep(1000)\nwaits()\n", ("run limit", "in waits", "import_path")
    ),
    "C code that keeps the interpreter": Hang(
        "import ctypes\ndef test_waits():\n    mutex = ctypes.create_string_buffer(64)\n"
        "    for _ in range(2):\n        ctypes.PyDLL(None).pthread_mutex_lock(mutex)\n",
        ("does not answer and is killed", "in test_waits"),
        statuses=(-signal.SIGKILL,),
    ),
    "a thread at the end of the interpreter": Hang(
        "import threading\ndef waits():\n    threading.Event().wait()\n"
        "def test_passes():\n    threading.Thread(target=waits).start()\n",
        ("1 passed", "run limit", "in waits"),
    ),
    "teardown after a failure": Hang(
        "@pytest.fixture\nasync def held():\n    yield 1\n    await asyncio.Event().wait()\n"
        "async def test_fails(held):\n    raise AssertionError('at first')\ndef test_next():\n    pass\n",
        (
            "at first",
            "ERROR at teardown of test_fails",
            "Timeout (>1.0s)",
            "in held",
            "1 failed, 1 passed, 1 error",
        ),
        ("--timeout", "1", "--run-limit", "100"),
        statuses=(1,),
    ),
    "a test whose task swallows cancellation": Hang(
        f"{SWALLOWS}async def test_waits():\n    await swallows_cancellation()\ndef test_next():\n    pass\n",
        (
            "Timeout (>1.0s)",
            "in swallows_cancellation",
            "1 failed",
            "1 passed",
            "ERROR at teardown of test_waits",
        ),
        ("--timeout", "1", "--run-limit", "100"),
        statuses=(1,),
    ),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Every run, side by side: they wait most of the time."""
    started = {}
    for kind, hang in HANGS.items():
        folder = tmp_path_factory.mktemp("run")
        (folder / "test_a.py").write_text(f"import asyncio\nimport pytest\n{hang.source}")
        (folder / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
        with (folder / "output").open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "pytest", "-p", "tests.run_limit", "-p", "no:cacheprovider",
                 "--run-limit", str(LIMIT_SECONDS), *hang.options, "test_a.py"],
                cwd=folder, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
        started[kind] = (process, folder / "output")
    yield started
    for process, _ in started.values():
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("kind", HANGS)
def test_a_run_that_hangs_ends_with_stacks_and_a_failure(runs, kind):
    process, output = runs[kind]
    status = process.wait(ENDS_WITHIN_SECONDS)
    text = output.read_text()
    assert status in HANGS[kind].statuses, text
    for shown in HANGS[kind].shown:
        assert shown in text, text


def test_what_the_run_started_ends_with_it(tmp_path):
    (tmp_path / "test_a.py").write_text(
        "import subprocess, sys\n"
        "SLEEPS = [sys.executable, '-c', 'import time; time.sleep(1000)']\n"
        "STARTS = f'import subprocess; print(subprocess.Popen({SLEEPS}).pid, flush=True); input()'\n"
        "def test_waits():\n"
        "    child = subprocess.Popen([sys.executable, '-c', STARTS], start_new_session=True,\n"
        "                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)\n"
        "    with open('pids', 'w') as file:\n"
        "        file.write(f'{child.pid} {child.stdout.readline()}')\n"
        "    child.wait()\n"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "tests.run_limit",
        "-p",
        "no:cacheprovider",
        "--run-limit",
        "5",
    ]
    ended = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, check=False, capture_output=True,
        timeout=ENDS_WITHIN_SECONDS,
    )  # fmt: skip
    assert ended.returncode == LIMIT_STATUS, ended.stderr
    child, grandchild = map(int, (tmp_path / "pids").read_text().split())
    for pid in (child, grandchild):
        # The kernel's list has it no longer, or only until its new parent asks for its status.
        until = time.monotonic() + 10
        while _running(pid):
            assert time.monotonic() < until, pid
            time.sleep(0.01)


def _running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"
