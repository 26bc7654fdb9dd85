"""The lifetime of a process: until a signal, or until the end of a task that it cannot do without.

Every background task of a service is owned here, so that its end is noticed: the process stops and says why, and does
not go on without it.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self

from services.common.rpc.interceptors import where

_log = logging.getLogger(__name__)


class TaskDiedError(Exception):
    """A task ended that should run as long as the process."""


class Lifetime:
    """Owns the background tasks of the process and decides its end.

    Use it as an async context manager. Leaving it cancels every task and waits for them.
    """

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self._tasks: set[asyncio.Task[object]] = set()
        self._failure: TaskDiedError | None = None

    async def __aenter__(self) -> Self:
        """Listen for SIGINT and SIGTERM."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stop.set)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Cancel the tasks and wait for their end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def own(self, work: Coroutine[Any, Any, object], name: str) -> asyncio.Task[object]:
        """Run a task for as long as the process lives. Any end of it stops the process."""
        return self._start(work, name, self._ended)

    def finish(self, work: Coroutine[Any, Any, object], name: str) -> asyncio.Task[object]:
        """Run a task that may finish. Only its failure stops the process."""
        return self._start(work, name, self._finished)

    def _start(
        self, work: Coroutine[Any, Any, object], name: str, ended: Callable[[asyncio.Task[object]], None]
    ) -> asyncio.Task[object]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(ended)
        return task

    def _finished(self, task: asyncio.Task[object]) -> None:
        if not task.cancelled() and task.exception() is None:
            self._tasks.discard(task)
        else:
            self._ended(task)

    def _ended(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        cause = task.exception()
        detail = f"{type(cause).__name__} at {where(cause)}" if cause else "returned"
        _log.error("task %s ended: %s", task.get_name(), detail)
        if self._failure is None:
            self._failure = TaskDiedError(f"task {task.get_name()} ended: {detail}")
        self.stop.set()

    async def wait(self) -> None:
        """Wait for a signal.

        Raises:
            TaskDiedError: an owned task ended first.
        """
        await self.stop.wait()
        if self._failure is not None:
            raise self._failure
