"""Ends requests from outside: when the router stops, and when their tenant or key may not ask any more.

Such a request is cancelled, and answered with the reason instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from services.common.errors import Error, Reason, UnavailableError


@dataclass(slots=True)
class RunningRequest:
    """One request that runs."""

    task: asyncio.Task[object]
    tenant_uid: str = ""
    """Empty until its caller is known."""
    key_id: str = ""
    ended_by: Error | None = None
    """Why it was cancelled from here."""


class Drain:
    """The running requests; bounded by the listener and the tenants' limits."""

    def __init__(self) -> None:
        self._running: dict[asyncio.Task[object], RunningRequest] = {}
        self._over = False

    @contextmanager
    def running(self) -> Iterator[RunningRequest]:
        """Count the current task as serving a request while the context lasts.

        Raises:
            Error: why the request was ended from outside.
        """
        if self._over:
            raise shutting_down()
        task = asyncio.current_task()
        assert task is not None, "requests run in tasks"
        request = self._running[task] = RunningRequest(task)
        try:
            yield request
        except asyncio.CancelledError:
            if request.ended_by is None:
                raise
            # It was cancelled here, so that the caller can be answered instead.
            task.uncancel()
            raise request.ended_by from None
        finally:
            del self._running[task]

    @property
    def cause(self) -> Error | None:
        """Why the current request was cancelled from here; None for one that its caller or its deadline cancelled."""
        task = asyncio.current_task()
        request = None if task is None else self._running.get(task)
        return None if request is None else request.ended_by

    def end(self, why: Callable[[str, str], Error | None]) -> int:
        """End the requests that may not go on; returns how many.

        Args:
            why: for a tenant_uid and a key id, the refusal; None for a caller that may go on.
        """
        ended = 0
        for request in list(self._running.values()):
            if not request.tenant_uid or request.ended_by is not None:
                continue
            refusal = why(request.tenant_uid, request.key_id)
            if refusal is not None:
                self._end(request, refusal)
                ended += 1
        return ended

    async def finish(self, within_seconds: float) -> None:
        """Let requests end by themselves; then end the others, and refuse every later one."""
        if self._running:
            await asyncio.wait(set(self._running), timeout=within_seconds)
        self._over = True
        for request in self._running.values():
            if request.ended_by is None:
                self._end(request, shutting_down())

    def _end(self, request: RunningRequest, cause: Error) -> None:
        request.ended_by = cause
        request.task.cancel()


def shutting_down() -> UnavailableError:
    """The refusal while the router stops."""
    return UnavailableError("the router is shutting down", reason=Reason.SHUTTING_DOWN)
