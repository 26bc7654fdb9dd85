"""Ends requests when the router stops: those that take too long are told so, and nobody blames their callers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from services.common.errors import Reason, UnavailableError


class Drain:
    """Knows what runs. Bounded by what the listener and the tenants' limits let in."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[object]] = set()
        self._over = False

    @contextmanager
    def running(self) -> Iterator[None]:
        """The current task serves a request for as long as the context lasts.

        Raises:
            UnavailableError: the router stops.
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
            # We cancelled it, so that the caller can be answered instead.
            task.uncancel()
            raise shutting_down() from None
        finally:
            self._running.discard(task)

    @property
    def over(self) -> bool:
        """Whether what is cancelled now is cancelled because the router stops."""
        return self._over

    async def finish(self, within_seconds: float) -> None:
        """Let requests end by themselves; end those that are left then, and every one that comes later."""
        if self._running:
            await asyncio.wait(set(self._running), timeout=within_seconds)
        self._over = True
        for task in self._running:
            task.cancel()


def shutting_down() -> UnavailableError:
    """What a caller is told."""
    return UnavailableError("the router is shutting down", reason=Reason.SHUTTING_DOWN)
