"""Makes signals end what they should end, at once: an answer that is awaited, a question that is read, an export."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


def run_interruptibly(runner: asyncio.Runner, work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end; Ctrl-C cancels it at once, and a second one ends code that does not await.

    `asyncio.Runner` alone only sets a flag. A signal that arrives as the loop begins to wait, or in another thread,
    would then be noticed with the next event, which may be the deadline. Here the signal wakes the loop.

    Raises:
        KeyboardInterrupt: Ctrl-C cancelled it.
    """
    return runner.run(_woken(work))


async def _woken(work: Coroutine[Any, Any, T]) -> T:
    runners = signal.getsignal(signal.SIGINT)
    if not callable(runners):
        # Ignored, as in the background of a shell: keep it ignored.
        return await work
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    signal.signal(signal.SIGINT, runners)
    try:
        return await work
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, runners)


async def ended_by_signals(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that keeps secrets on disk: SIGTERM and SIGHUP cancel it, so that it removes them.

    A signal that is ignored, as SIGHUP under `nohup`, stays so. Only the main thread may handle signals: in another
    one, where a program runs the command beside its own work, the work simply runs.

    Raises:
        SystemExit: a signal cancelled it; the status is 128 and the signal's number, as shells report it.
    """
    if threading.current_thread() is not threading.main_thread():
        return await work
    task = asyncio.create_task(work)
    received: list[int] = []

    def end(number: int) -> None:
        received.append(number)
        task.cancel()

    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    handled = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    for number in handled:
        loop.add_signal_handler(number, end, number)
    try:
        return await task
    except asyncio.CancelledError:
        if not received:
            raise
        raise SystemExit(128 + received[0]) from None
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
            signal.signal(number, before[number])


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C end a blocking read inside a coroutine.

    asyncio's own handler cancels the task, which a blocking read does not notice: Python would go on reading (PEP 475).
    """
    before = signal.getsignal(signal.SIGINT)
    if not callable(before):
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
