"""Has another router keep what the controller's own requests used of their limits, in case this process dies.

What other routers' requests used is in their own reports to the next controller. What this router's own requests used
would die with it, and the next controller admit as much again. So a tenant's usage is kept elsewhere before one of its
requests gets a place.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from itertools import count

from services.common.clock import Clock
from services.router.flow.events import Witness
from services.router.limits.tenant_limiter import TenantLimiter

_log = logging.getLogger(__name__)
_KEPT_SECONDS = 1.0


class Keeper:
    """One router that may keep it."""

    def __init__(self, send: Callable[[Witness], object]) -> None:
        self.send = send
        self.waiting: dict[int, asyncio.Future[bool]] = {}
        self.has_all = False
        """Whether it was sent everything once."""


class Mirror:
    """What this router's own requests used, at one other router.

    Args:
        own: what they used.
        clock: of its times.
    """

    def __init__(self, own: TenantLimiter, clock: Clock) -> None:
        self._own = own
        self._clock = clock
        self._keepers: dict[Keeper, None] = {}
        self._sequence = count(1)

    def add(self, send: Callable[[Witness], object]) -> Keeper:
        """Use one more router."""
        keeper = Keeper(send)
        self._keepers[keeper] = None
        return keeper

    def remove(self, keeper: Keeper) -> None:
        """Use a router no longer: its stream ended."""
        self._keepers.pop(keeper, None)
        for waiting in keeper.waiting.values():
            if not waiting.done():
                waiting.set_result(False)

    def kept(self, keeper: Keeper, sequence: int) -> None:
        """Note that a router keeps what it was sent."""
        waiting = keeper.waiting.pop(sequence, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(True)

    def before_join(self, tenant_uid: str) -> Awaitable[None] | None:
        """Have a tenant's usage kept; None if there is no other router."""
        return self._keep(tenant_uid) if self._keepers else None

    async def _keep(self, tenant_uid: str) -> None:
        # The first one that answers in time; each is slow at most once.
        for keeper in list(self._keepers):
            if keeper not in self._keepers:
                continue
            if await self._kept_by(keeper, tenant_uid):
                return
            # Asked last from now on.
            if self._keepers.pop(keeper, keeper) is None:
                self._keepers[keeper] = None

    async def _kept_by(self, keeper: Keeper, tenant_uid: str) -> bool:
        now, sequence = self._clock.monotonic_seconds(), next(self._sequence)
        kept: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        keeper.waiting[sequence] = kept
        usage = [self._own.usage(tenant_uid, now)] if keeper.has_all else self._own.used(now)
        keeper.has_all = True
        keeper.send(Witness(sequence, usage))
        try:
            async with asyncio.timeout(_KEPT_SECONDS):
                return await kept
        except TimeoutError:
            _log.warning("another router did not keep in time what requests here used")
            return False
        finally:
            keeper.waiting.pop(sequence, None)
