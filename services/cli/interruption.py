"""Ctrl-C while something is awaited."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run_interruptibly(runner: asyncio.Runner, work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; Ctrl-C cancels the work at once, every time.

    What `asyncio.Runner` installs itself only sets a flag: a signal that comes as the loop goes to wait, or that
    another thread is given, is noticed with the next event, which may be the deadline.

    Raises:
        KeyboardInterrupt: it was cancelled so.
    """
    interrupted = False

    async def watched() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def interrupt() -> None:
            nonlocal interrupted
            interrupted = True
            task.cancel()

        loop.add_signal_handler(signal.SIGINT, interrupt)
        try:
            return await work
        finally:
            loop.remove_signal_handler(signal.SIGINT)

    try:
        return runner.run(watched())
    except asyncio.CancelledError:
        if interrupted:
            raise KeyboardInterrupt from None
        raise
