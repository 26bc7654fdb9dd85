"""Admits requests: cheap limits first, then tokens and quotas are reserved; all are settled however a request ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from services.common.clock import Clock
from services.router.limits.limited import limited_of
from services.router.limits.tenant_limiter import TenantLimiter, TokenHold
from services.router.pool.demand import Cost
from services.router.quota.ledger import QuotaLedger, QuotaTenant, Use
from services.router.snapshot.model import Tenant, TokenPrice
from services.router.stages import Shaped


@dataclass(slots=True)
class Reservation:
    """Tokens reserved for a request; what it did not use is given back at its end."""

    cost: Cost
    price: TokenPrice | None
    _hold: TokenHold | None
    _clock: Clock
    _input_tokens: int = 0
    _output_tokens: int = 0

    def use(self, input_tokens: int, output_tokens: int) -> None:
        """Count what the request has used so far, as it uses it: what its generation is charged.

        Nothing is used by a request that was not dispatched.
        """
        tokens = input_tokens + output_tokens - self._input_tokens - self._output_tokens
        self._input_tokens, self._output_tokens = input_tokens, output_tokens
        if self._hold is not None and tokens > 0:
            self._hold.spend(tokens, self._clock.monotonic_seconds())

    @property
    def most(self) -> Use:
        """The most it can use."""
        return self._use(self.cost.input_tokens, self.cost.max_output_tokens)

    @property
    def used(self) -> Use:
        """What it has used so far."""
        return self._use(self._input_tokens, self._output_tokens)

    def _use(self, input_tokens: int, output_tokens: int) -> Use:
        spent = 0 if self.price is None else self.price.micro_units(input_tokens, output_tokens)
        return Use(input_tokens + output_tokens, spent)


class Admission:
    """What this router knows of tenants' limits at once, and its slices of their quotas."""

    def __init__(self, limiter: TenantLimiter, quotas: QuotaLedger, clock: Clock) -> None:
        self._limiter = limiter
        self._quotas = quotas
        self._clock = clock

    @asynccontextmanager
    async def reserved(self, shaped: Shaped) -> AsyncIterator[Reservation]:
        """Hold the most tokens a request can use. Waits only for a quota, and then for one answer at most.

        Raises:
            ResourceExhaustedError: they do not fit into this minute, or into a quota or spend budget.
            UnavailableError: the config service granted no more of a quota in time.
        """
        tenant, now = shaped.tenant, self._clock.monotonic_seconds()
        limited = limited_of(tenant, shaped.identified.key_id)
        hold = self._limiter.reserve_tokens(limited, shaped.cost.tokens, now)
        reservation = Reservation(shaped.cost, shaped.shape.price, hold, self._clock)
        try:
            async with self._quota_reserved(tenant, reservation):
                yield reservation
        finally:
            if hold is not None:
                hold.release()

    @asynccontextmanager
    async def _quota_reserved(self, tenant: Tenant, reservation: Reservation) -> AsyncIterator[None]:
        if not tenant.allowances:
            yield
            return
        held = await self._quotas.reserve(quota_tenant(tenant), reservation.most)
        try:
            yield
        finally:
            self._quotas.settle(held, reservation.used)


def quota_tenant(tenant: Tenant) -> QuotaTenant:
    """What a tenant's quotas and spend budgets are asked about."""
    shadow = frozenset(one for one in tenant.allowances if one.limit in tenant.shadow_limits)
    return QuotaTenant(tenant.tenant_uid, tenant.name, tenant.allowances, shadow)
