"""Has another router keep what the controller's own requests used of their limits, in case this process dies.

What other routers' requests used is in their own reports to the next controller. What this router's own requests used
would die with it, and the next controller admit as much again. So a tenant's usage is kept elsewhere before one of its
requests gets a place. Usage is lost only if the controller and its keeper die before another keeper has it all.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import count

from services.common.clock import Clock
from services.router.flow.events import Witness
from services.router.limits.tenant_limiter import TenantLimiter, Usage

_log = logging.getLogger(__name__)
_KEPT_SECONDS = 1.0


class Keeper:
    """One router that may keep it."""

    def __init__(self, send: Callable[[Witness], object]) -> None:
        self.send = send
        self.waiting: dict[int, asyncio.Future[bool]] = {}
        self.all_sent = 0
        """The sequence number of the message that held everything; 0 for none."""
        self.has_all = False


class Mirror:
    """What this router's own requests used, at one other router.

    Args:
        own: what they used.
        rate_level: of the rate limiter of a tenant or key, over all routers.
        clock: of its times.
    """

    def __init__(self, own: TenantLimiter, rate_level: Callable[[str], float], clock: Clock) -> None:
        self._own = own
        self._rate_level = rate_level
        self._clock = clock
        self._keepers: list[Keeper] = []
        """The first one keeps; the others are there in case it goes."""
        self._sequence = count(1)

    @property
    def safe(self) -> bool:
        """Whether another router has all, if there is another one."""
        return not self._keepers or self._keepers[0].has_all

    def add(self, send: Callable[[Witness], object]) -> Keeper:
        """Use one more router."""
        keeper = Keeper(send)
        self._keepers.append(keeper)
        self._send_all()
        return keeper

    def remove(self, keeper: Keeper) -> None:
        """Use a router no longer: its stream ended."""
        if keeper not in self._keepers:
            return
        self._keepers.remove(keeper)
        self._send_all()
        for waiting in keeper.waiting.values():
            if not waiting.done():
                waiting.set_result(False)

    def inherit(self, usages: Sequence[Usage]) -> None:
        """Keep what routers that are gone spent as if requests here had, and have it kept elsewhere."""
        now = self._clock.monotonic_seconds()
        for used in usages:
            self._own.merge(used, now)
        if self._keepers:
            self._keepers[0].all_sent, self._keepers[0].has_all = 0, False
            self._send_all()

    def kept(self, keeper: Keeper, sequence: int) -> None:
        """Note that a router keeps what it was sent."""
        keeper.has_all = keeper.has_all or sequence == keeper.all_sent
        waiting = keeper.waiting.pop(sequence, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(True)

    def before_join(self, subjects: Sequence[str]) -> Callable[[], Awaitable[None]] | None:
        """What has the usage of a tenant and a key kept; None if there is no other router."""
        return partial(self._keep, subjects) if self._keepers else None

    async def _keep(self, subjects: Sequence[str]) -> None:
        for _ in range(len(self._keepers) + 1):
            if not self._keepers:
                return
            keeper = self._keepers[0]
            if await self._kept_by(keeper, subjects):
                return
            if keeper in self._keepers:
                # Slow: another one keeps from now on.
                _log.warning("another router did not keep in time what requests here used")
                self._keepers.remove(keeper)
                self._keepers.append(keeper)
                keeper.all_sent, keeper.has_all = 0, False
                self._send_all()

    async def _kept_by(self, keeper: Keeper, subjects: Sequence[str]) -> bool:
        sequence = next(self._sequence)
        kept: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        keeper.waiting[sequence] = kept
        self._send(keeper, sequence, subjects)
        try:
            async with asyncio.timeout(_KEPT_SECONDS):
                return await kept
        except TimeoutError:
            return False
        finally:
            keeper.waiting.pop(sequence, None)

    def _send_all(self) -> None:
        if self._keepers and not self._keepers[0].all_sent:
            keeper = self._keepers[0]
            keeper.all_sent = next(self._sequence)
            used = self._own.used(self._clock.monotonic_seconds())
            self._send(keeper, keeper.all_sent, [one.subject for one in used])

    def _send(self, keeper: Keeper, sequence: int, subjects: Sequence[str]) -> None:
        now = self._clock.monotonic_seconds()
        usage = [replace(self._own.usage(one, now), rate_level=self._rate_level(one)) for one in subjects]
        keeper.send(Witness(sequence, usage))
