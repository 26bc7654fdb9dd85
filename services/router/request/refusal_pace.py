"""Delays the refusals of a caller that is refused again and again, so that a loop of refused calls costs little.

A refusal costs a router a good part of what an answer does. A caller that waits for each of them before it calls again
gets no more a second than it has calls at once. One that does not wait is bounded by the edge's rate; only so many
refusals are delayed, and beyond them refusals are sent at once.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.common.clock import Clock
from services.common.errors import ResourceExhaustedError, UnauthenticatedError
from services.router.limits.rate_limiter import RateLimiter

_PROMPT_PER_SECOND = 20.0
_PROMPT_BURST = 50
# A caller above its limits may be a busy one: it is told at once far more often.
_PROMPT_LIMITS_PER_SECOND = 100.0
_PROMPT_LIMITS_BURST = 200
_DELAY_SECONDS = 1.0
_MAX_KNOWN = 4096


class RefusalPace:
    """The refusals of one router; remembers the callers most recently refused."""

    def __init__(self, clock: Clock, most_delayed: int) -> None:
        """Delay at most so many at once: each has a place among the router's calls."""
        self._clock = clock
        self._most_delayed = most_delayed
        self._callers: OrderedDict[bytes, RateLimiter] = OrderedDict()
        self.delayed = 0
        """Refusals that wait now."""

    @asynccontextmanager
    async def paced(self, authorization: str | None) -> AsyncIterator[None]:
        """Delay a refusal of the key, or by a limit, if this caller had its prompt ones."""
        try:
            yield
        except UnauthenticatedError:
            await self._wait(authorization, _PROMPT_PER_SECOND, _PROMPT_BURST)
            raise
        except ResourceExhaustedError:
            await self._wait(authorization, _PROMPT_LIMITS_PER_SECOND, _PROMPT_LIMITS_BURST)
            raise

    async def _wait(self, authorization: str | None, per_second: float, burst: int) -> None:
        """Wait before a refusal is sent, if this caller had its prompt ones; callers are told apart by their header."""
        if self._prompt(authorization, per_second, burst) or self.delayed >= self._most_delayed:
            return
        self.delayed += 1
        try:
            await asyncio.sleep(_DELAY_SECONDS)
        finally:
            self.delayed -= 1

    def _prompt(self, authorization: str | None, per_second: float, burst: int) -> bool:
        # The header is a secret.
        caller = hashlib.sha256((authorization or "").encode()).digest()
        rate = self._callers.setdefault(caller, RateLimiter())
        self._callers.move_to_end(caller)
        if len(self._callers) > _MAX_KNOWN:
            self._callers.popitem(last=False)
        now = self._clock.monotonic_seconds()
        return rate.wait_seconds(per_second, burst, 1, now) == 0.0  # proven: paced-refusals
