"""Ctrl-C ends what is awaited at once, whichever thread the kernel gives the signal to."""

from __future__ import annotations

import asyncio
import platform
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.cli.terminal.interruption import run_interruptibly

LONG_SECONDS, SHORT_SECONDS = 30.0, 2.0
EPOLL_CALLS = {"232", "281", "441"}
"""epoll_wait, epoll_pwait and epoll_pwait2 on x86-64."""

on_x86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="knows the system calls of x86-64 only")


@contextmanager
def interrupted_while_the_loop_waits() -> Iterator[None]:
    """The signal goes to the thread that sends it, so that nothing wakes the one that waits."""
    waiting, over = Path(f"/proc/self/task/{threading.get_native_id()}/syscall"), threading.Event()

    def interrupt() -> None:
        while not over.wait(0.001):
            if waiting.read_text().partition(" ")[0] in EPOLL_CALLS:
                signal.pthread_kill(threading.get_ident(), signal.SIGINT)
                return

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def seconds_until_interrupted(run, longest_seconds: float) -> float:
    begun = time.monotonic()

    async def work() -> None:
        with interrupted_while_the_loop_waits():
            await asyncio.sleep(longest_seconds)

    with asyncio.Runner() as runner, pytest.raises(KeyboardInterrupt):
        run(runner, work())
    return time.monotonic() - begun


@on_x86_64
def test_a_signal_is_noticed_while_nothing_else_happens():
    assert seconds_until_interrupted(run_interruptibly, LONG_SECONDS) < LONG_SECONDS


@on_x86_64
def test_that_test_notices_a_signal_that_waits_for_the_next_event():
    assert seconds_until_interrupted(asyncio.Runner.run, SHORT_SECONDS) >= SHORT_SECONDS


def test_the_loop_goes_on_after_an_interruption_and_ctrl_c_is_pythons_again():
    with asyncio.Runner() as runner:

        async def interrupted() -> None:
            signal.raise_signal(signal.SIGINT)
            await asyncio.sleep(LONG_SECONDS)

        async def answer() -> int:
            await asyncio.sleep(0)
            return 7

        with pytest.raises(KeyboardInterrupt):
            run_interruptibly(runner, interrupted())
        assert run_interruptibly(runner, answer()) == 7
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_signal_ends_work_that_does_not_wait():
    async def busy() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("still busy")

    with asyncio.Runner() as runner, pytest.raises(KeyboardInterrupt):
        run_interruptibly(runner, busy())


def test_what_ignores_ctrl_c_goes_on_ignoring_it():
    async def deaf() -> int:
        signal.raise_signal(signal.SIGINT)
        await asyncio.sleep(0)
        return 7

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with asyncio.Runner() as runner:
            assert run_interruptibly(runner, deaf()) == 7
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_work_that_is_cancelled_otherwise_is_no_interruption():
    async def cancelled() -> None:
        raise asyncio.CancelledError

    with asyncio.Runner() as runner, pytest.raises(asyncio.CancelledError):
        run_interruptibly(runner, cancelled())
