"""Admits requests: cheap limits first, then tokens and quotas are reserved; all are settled however a request ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from services.common.clock import Clock
from services.common.errors import FieldViolation, InvalidArgumentError
from services.router.pool.demand import Cost
from services.router.quota.ledger import QuotaLedger, QuotaTenant
from services.router.request.limits import TenantLimiter
from services.router.snapshot.model import Tenant
from services.router.stages import Shape


@dataclass(slots=True)
class Reservation:
    """Tokens taken for a request; those it does not use are given back at its end."""

    cost: Cost
    used_tokens: int = 0
    """Charged at settlement: the generation's `charged_tokens`; nothing for a request that was not dispatched."""


class Admission:
    """The limits of all tenants in this process, and its slices of their quotas."""

    def __init__(self, limiter: TenantLimiter, quotas: QuotaLedger, clock: Clock) -> None:
        self._limiter = limiter
        self._quotas = quotas
        self._clock = clock

    @contextmanager
    def entered(self, tenant: Tenant) -> Iterator[None]:
        """Hold one of the tenant's concurrent requests.

        Raises:
            ResourceExhaustedError: the rate or the concurrency is used up.
        """
        now = self._clock.monotonic_seconds()
        self._limiter.enter(tenant.tenant_uid, tenant.name, tenant.limits, now)
        try:
            yield
        finally:
            self._limiter.leave(tenant.tenant_uid)

    @asynccontextmanager
    async def reserved(self, tenant: Tenant, cost: Cost) -> AsyncIterator[Reservation]:
        """Hold the most tokens a request can use. Waits only for a quota, and then for one answer at most.

        Raises:
            ResourceExhaustedError: they do not fit into this minute, or into a quota.
            UnavailableError: the config service granted no more of a quota in time.
        """
        now = self._clock.monotonic_seconds()
        self._limiter.reserve_tokens(tenant.tenant_uid, tenant.name, tenant.limits, cost.tokens, now)
        reservation = Reservation(cost)
        try:
            async with self._quota_reserved(tenant, reservation):
                yield reservation
        finally:
            self._limiter.settle_tokens(
                tenant.tenant_uid, tenant.limits, cost.tokens, reservation.used_tokens
            )

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
