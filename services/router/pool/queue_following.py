"""Looks again and again at the queue inside a model server, where it publishes one."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NoReturn, Protocol

from services.router.pool.server_queue import waiting_requests

_log = logging.getLogger(__name__)
_INTERVAL_SECONDS = 1.0
_JITTER = 0.2
_TIMEOUT_SECONDS = 1.0


class MetricsReader(Protocol):
    """Reads a server's metrics."""

    async def read(self, url: str, timeout_seconds: float) -> str:
        """The metrics, in Prometheus' text format.

        Raises:
            OSError: it cannot be reached, in time or at all, or its answer is none or too large.
        """
        ...


@dataclass(frozen=True, slots=True)
class Watched:
    """A model at a server, and where the server's metrics are."""

    target: str
    server_model: str
    url: str


async def follow_queue(
    reader: MetricsReader,
    watched: Watched,
    report: Callable[[int | None], object],
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> NoReturn:
    """Look until cancelled, and report how many requests wait; None whenever the server does not say."""
    complained = False
    while True:
        waiting = None
        try:
            text = await reader.read(watched.url, _TIMEOUT_SECONDS)
            waiting = waiting_requests(text, watched.server_model)
            problem = "" if waiting is not None else "it names no queue"
        except (OSError, ValueError) as error:
            problem = type(error).__name__
        if problem and not complained:
            _log.warning("the queue of %s cannot be followed: %s", watched.target, problem)
        complained = bool(problem)
        report(waiting)
        # Not all servers at one moment.
        await sleep(_INTERVAL_SECONDS * random.uniform(1 - _JITTER, 1 + _JITTER))  # noqa: S311 - no secret
