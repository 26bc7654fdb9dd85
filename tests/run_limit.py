"""A pytest plugin: a test run ends, whatever hangs in it.

The run as a whole has a limit (`--run-limit SECONDS`). Past it, each process of the run, workers first, prints the
stacks of its threads and of the tasks of its event loops, kills what it started and exits with `LIMIT_STATUS`. A thread
does that; it is armed from pytest's configuration until the process has ended, so it covers collection, fixtures,
asyncio's runner and the end of the interpreter. `run_guard.py` covers what stops this thread too.

A single test has pytest-timeout's limit, which this plugin extends: the limit also holds for the teardown of a test
that has failed (pytest-timeout drops its timer at the first failure), it strikes again where one strike was swallowed,
and the report shows the stacks of the tasks.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from types import AsyncGeneratorType, CoroutineType, FrameType
from typing import Any

import pytest

from tests import run_guard

LIMIT_STATUS = 124
"""The exit status of a run that was ended, as that of timeout(1)."""
_DEFAULT_SECONDS = 1200.0
_WORKERS_FIRST_SECONDS = 3.0
_GUARD_SECONDS = 5.0
_STRIKES_AGAIN_SECONDS = 20.0
_PRINTS_STACKS = signal.SIGRTMIN + 7
_ENDS_AT = "run_ends_at"
_TIMEOUT = pytest.StashKey[Any]()
_SUSPENDED = (CoroutineType, AsyncGeneratorType)


def pytest_addoption(parser):
    parser.addoption(
        "--run-limit",
        type=float,
        default=_DEFAULT_SECONDS,
        metavar="SECONDS",
        help=f"end the run with stacks and a failure after this time; {_DEFAULT_SECONDS:.0f} by default, 0: never",
    )


def pytest_configure(config):
    seconds = config.getoption("run_limit")
    if not seconds or config.getoption("usepdb"):
        return
    given = getattr(config, "workerinput", {})
    ends_at = given.get(_ENDS_AT, time.monotonic() + seconds)
    config.pluginmanager.register(
        RunLimit(seconds, ends_at, given.get("workerid"), workers=bool(getattr(config.option, "tx", None)))
    )


class RunLimit:
    """Ends this process of the run at a time of CLOCK_MONOTONIC."""

    def __init__(self, seconds: float, ends_at: float, worker: str | None, *, workers: bool) -> None:
        self._seconds, self._ends_at, self._worker = seconds, ends_at, worker
        self._running: dict[str, float] = {}
        self._failures: list[str] = []
        # A copy from before pytest captures: output goes to the terminal or log of the run.
        self._stderr = os.dup(2)
        faulthandler.register(_PRINTS_STACKS, file=self._stderr, all_threads=True)
        own_end = ends_at + (_WORKERS_FIRST_SECONDS if workers else 0.0)
        threading.Thread(target=self._watch, args=(own_end,), name="run limit", daemon=True).start()
        # Not awaited: it ends after this process, or with it.
        os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-S", run_guard.__file__, str(os.getpid()), str(own_end + _GUARD_SECONDS),
             str(int(_PRINTS_STACKS))],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, self._stderr, 1), (os.POSIX_SPAWN_DUP2, self._stderr, 2)],
            setsid=True,
        )  # fmt: skip

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node):
        node.workerinput[_ENDS_AT] = self._ends_at

    def pytest_runtest_logstart(self, nodeid):
        self._running[nodeid] = time.monotonic()

    def pytest_runtest_logfinish(self, nodeid):
        self._running.pop(nodeid, None)

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self._failures.append(
                f"---- failed before: {report.nodeid} ({report.when})\n{report.longreprtext}"
            )

    def _watch(self, own_end: float) -> None:
        # Not `sleep`: under Debian's faketime, which leaves the monotonic clock alone, it fails.
        while (left := own_end - time.monotonic()) > 0:
            select.select([], [], [], left)
        try:
            self._write(self._report())
            run_guard.end_descendants(os.getpid())
        finally:
            os._exit(LIMIT_STATUS)

    def _report(self) -> str:
        now = time.monotonic()
        lines = [
            "",
            f"==== run limit: not over after {self._seconds:g} s; process {os.getpid()}, {self._worker or 'main'} ====",
            *self._failures,
            *(f"running for {now - began:.1f} s: {nodeid}" for nodeid, began in self._running.items()),
        ]
        try:
            stacks = stacks_of_tasks() + _stacks_of_threads()
        except Exception:  # noqa: BLE001 - the run changes while it is read; it ends with what could be said
            stacks = f"no stacks:\n{traceback.format_exc()}"
        return "\n".join(lines) + "\n" + stacks

    def _write(self, text: str) -> None:
        data = text.encode("utf-8", "backslashreplace")
        while data:
            data = data[os.write(self._stderr, data) :]


def stacks_of_tasks() -> str:
    """The stack of each unfinished task of every event loop of this process, as text."""
    loops = [found for found in gc.get_objects() if issubclass(type(found), asyncio.AbstractEventLoop)]
    return "".join(_stack_of(task, loop) for loop in loops for task in asyncio.all_tasks(loop))


def _stack_of(task: asyncio.Task[Any], loop: asyncio.AbstractEventLoop) -> str:
    asked = f", cancelled {task.cancelling()} times" if task.cancelling() else ""
    state = "closed" if loop.is_closed() else "running" if loop.is_running() else "idle"
    frames = [(frame, frame.f_lineno) for frame in _frames(task.get_coro())]
    head = f"---- task {task.get_name()} of a loop that is {state}{asked}\n"
    return head + "".join(traceback.StackSummary.extract(frames).format())


def _frames(awaited: Any) -> Iterator[FrameType]:
    """The frames of a coroutine and of what it awaits, outermost first; `Task.get_stack` shows only the first one."""
    while awaited is not None:
        kind = next((kind for kind in ("cr", "gi", "ag") if hasattr(awaited, f"{kind}_frame")), None)
        if kind is None:
            # A step of an asynchronous generator names its generator to the collector alone.
            awaited = next((each for each in gc.get_referents(awaited) if isinstance(each, _SUSPENDED)), None)
            continue
        if (frame := getattr(awaited, f"{kind}_frame")) is not None:
            yield frame
        awaited = getattr(awaited, "gi_yieldfrom" if kind == "gi" else f"{kind}_await")


def _stacks_of_threads() -> str:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "".join(
        f"---- thread {names.get(ident, ident)}\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in sys._current_frames().items()
        if ident != threading.get_ident()
    )


@pytest.hookimpl(wrapper=True)
def pytest_timeout_set_timer(item, settings):
    done = yield
    item.stash[_TIMEOUT] = settings
    if _timer_runs():
        strike = signal.getsignal(signal.SIGALRM)

        def report_and_strike(number, frame):
            item.add_report_section("timeout", "tasks", stacks_of_tasks())
            strike(number, frame)

        signal.signal(signal.SIGALRM, report_and_strike)
        signal.setitimer(signal.ITIMER_REAL, settings.timeout, _STRIKES_AGAIN_SECONDS)
    return done


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item):
    settings = item.stash.get(_TIMEOUT, None)
    if settings is not None and not settings.func_only and not _timer_runs():
        item.config.hook.pytest_timeout_set_timer(item=item, settings=settings)


def _timer_runs() -> bool:
    return signal.getitimer(signal.ITIMER_REAL)[0] > 0
