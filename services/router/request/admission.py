"""Admits requests: cheap limits first, then tokens and quotas are reserved; all are settled however a request ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from services.common.clock import Clock
from services.common.errors import FieldViolation, InvalidArgumentError
from services.router.limits.tenant_limiter import TenantLimiter, TokenHold
from services.router.pool.demand import Cost
from services.router.quota.ledger import QuotaLedger, QuotaTenant
from services.router.snapshot.model import Tenant
from services.router.stages import Shape


@dataclass(slots=True)
class Reservation:
    """Tokens reserved for a request; what it did not use is given back at its end."""

    cost: Cost
    _hold: TokenHold | None
    _clock: Clock
    used_tokens: int = 0
    """The generation's `charged_tokens` so far; nothing for a request that was not dispatched."""

    def use(self, total_tokens: int) -> None:
        """Count what the request has used so far, as it uses it."""
        tokens, self.used_tokens = total_tokens - self.used_tokens, total_tokens
        if self._hold is not None and tokens > 0:
            self._hold.spend(tokens, self._clock.monotonic_seconds())


class Admission:
    """What this router knows of tenants' limits at once, and its slices of their quotas."""

    def __init__(self, limiter: TenantLimiter, quotas: QuotaLedger, clock: Clock) -> None:
        self._limiter = limiter
        self._quotas = quotas
        self._clock = clock

    @asynccontextmanager
    async def reserved(self, tenant: Tenant, cost: Cost) -> AsyncIterator[Reservation]:
        """Hold the most tokens a request can use. Waits only for a quota, and then for one answer at most.

        Raises:
            ResourceExhaustedError: they do not fit into this minute, or into a quota.
            UnavailableError: the config service granted no more of a quota in time.
        """
        now = self._clock.monotonic_seconds()
        hold = self._limiter.reserve_tokens(tenant.tenant_uid, tenant.name, tenant.limits, cost.tokens, now)
        reservation = Reservation(cost, hold, self._clock)
        try:
            async with self._quota_reserved(tenant, reservation):
                yield reservation
        finally:
            if hold is not None:
                hold.release()

    @asynccontextmanager
    async def _quota_reserved(self, tenant: Tenant, reservation: Reservation) -> AsyncIterator[None]:
        if not tenant.quota_windows:
            yield
            return
        asked = QuotaTenant(tenant.tenant_uid, tenant.name, tenant.quota_windows)
        held = await self._quotas.reserve(asked, reservation.cost.tokens)
        try:
            yield
        finally:
            self._quotas.settle(held, reservation.used_tokens)


def cost_of(tenant: Tenant, shape: Shape, input_tokens: int) -> Cost:
    """The most a request can use; the answer takes no more than the prompt leaves of the context.

    Raises:
        InvalidArgumentError: the prompt is too long; names limit and actual.
    """
    limit = shape.base_model.context_tokens - 1
    if tenant.limits.input_tokens is not None:
        limit = min(limit, tenant.limits.input_tokens)
    if input_tokens > limit:
        raise InvalidArgumentError(
            [FieldViolation(shape.prompt.field, f"{input_tokens} tokens once rendered; at most {limit}")]
        )
    room = shape.base_model.context_tokens - input_tokens
    return Cost(input_tokens, min(shape.parameters.max_output_tokens, room))
