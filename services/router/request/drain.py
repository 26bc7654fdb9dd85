"""Ends requests when the router stops: those that take too long are answered SHUTTING_DOWN, not as cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from services.common.errors import Reason, UnavailableError


class Drain:
    """The running requests; bounded by the listener and the tenants' limits."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[object]] = set()
        self._over = False

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the current task as serving a request while the context lasts.

        Raises:
            UnavailableError: the router is stopping.
        """
        if self._over:
            raise shutting_down()
        task = asyncio.current_task()
        assert task is not None, "requests run in tasks"
        self._running.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if not self.over:
                raise
            # `finish` cancelled it, so that the caller can be answered instead.
            task.uncancel()
            raise shutting_down() from None
        finally:
            self._running.discard(task)

    @property
    def over(self) -> bool:
        """Whether tasks are cancelled now because the router stops."""
        return self._over

    async def finish(self, within_seconds: float) -> None:
        """Let requests end by themselves; then end the others, and refuse every later one."""
        if self._running:
            await asyncio.wait(set(self._running), timeout=within_seconds)
        self._over = True
        for task in self._running:
            task.cancel()


def shutting_down() -> UnavailableError:
    """The refusal while the router stops."""
    return UnavailableError("the router is shutting down", reason=Reason.SHUTTING_DOWN)
