"""Ctrl-C ends what is awaited at once, whichever thread the kernel gives the signal to."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from pathlib import Path

import pytest

from services.cli.interruption import run_interruptibly

LONG_SECONDS, SHORT_SECONDS = 30.0, 0.5
EPOLL_CALLS = {"232", "281", "441"}
"""epoll_wait, epoll_pwait and epoll_pwait2 on x86-64."""


def interrupt_once_the_loop_waits() -> threading.Thread:
    """The signal goes to the thread that sends it, so that nothing wakes the one that waits."""
    waiting = Path(f"/proc/self/task/{threading.get_native_id()}/syscall")

    def interrupt() -> None:
        end = time.monotonic() + 10
        while waiting.read_text().partition(" ")[0] not in EPOLL_CALLS and time.monotonic() < end:
            time.sleep(0.001)
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    return thread


def seconds_until_interrupted(run, longest_seconds: float) -> float:
    begun = time.monotonic()

    async def work() -> None:
        started.append(interrupt_once_the_loop_waits())
        await asyncio.sleep(longest_seconds)

    started: list[threading.Thread] = []
    with asyncio.Runner() as runner, pytest.raises(KeyboardInterrupt):
        run(runner, work())
    started[0].join(10)
    return time.monotonic() - begun


def test_a_signal_is_noticed_while_nothing_else_happens():
    assert seconds_until_interrupted(run_interruptibly, LONG_SECONDS) < LONG_SECONDS


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


def test_work_that_is_cancelled_otherwise_is_no_interruption():
    async def cancelled() -> None:
        raise asyncio.CancelledError

    with asyncio.Runner() as runner, pytest.raises(asyncio.CancelledError):
        run_interruptibly(runner, cancelled())
