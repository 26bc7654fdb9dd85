"""Ctrl-C while something is awaited."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run_interruptibly(runner: asyncio.Runner, work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; Ctrl-C cancels the work at once, every time, and a second one ends what does not wait.

    That is what `asyncio.Runner` is for, but its way only sets a flag: a signal that comes as the loop goes to wait,
    or that another thread is given, is noticed with the next event, which may be the deadline. Here it wakes the loop.

    Raises:
        KeyboardInterrupt: it was cancelled so.
    """
    return runner.run(_woken(work))


async def _woken(work: Coroutine[Any, Any, T]) -> T:
    runners = signal.getsignal(signal.SIGINT)
    if not callable(runners):
        # Ignored, as in the background of a shell: that stays so.
        return await work
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    signal.signal(signal.SIGINT, runners)
    try:
        return await work
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, runners)
