"""The quota lease service: settles each demand of a router by itself."""

from __future__ import annotations

import asyncio
from typing import Any

from grpc.aio import ServicerContext
from tenantry.config.v1 import quota_lease_service_pb2 as pb
from tenantry.config.v1 import quota_lease_service_pb2_grpc, tenant_usage_pb2

from services.common.errors import FieldViolation, InvalidArgumentError
from services.config.quota.allowances import Allowance
from services.config.quota.leases import QuotaLeases
from services.config.quota.ledger import Claim, Grant

MAX_DEMANDS = 1000
MAX_NAME = 128
MAX_UNITS = 1 << 53
_AT_ONCE = 16
_ALLOWANCES = frozenset(allowance.value for allowance in Allowance)


class QuotaLeaseServicer(quota_lease_service_pb2_grpc.QuotaLeaseServiceServicer):
    """Serves the mesh's own routers."""

    def __init__(self, leases: QuotaLeases) -> None:
        self._leases = leases
        # Bounds the concurrent writes to etcd of all routers together.
        self._at_once = asyncio.Semaphore(_AT_ONCE)

    async def LeaseQuotas(
        self,
        request: pb.LeaseQuotasRequest,
        context: ServicerContext[Any, Any],  # noqa: ARG002 - gRPC passes it
    ) -> pb.LeaseQuotasResponse:
        """Take, renew and give back slices.

        When one demand cannot be settled, the whole call fails. Sent again with its number, nothing counts twice.
        """
        violations = _violations(request)
        if violations:
            raise InvalidArgumentError(violations)
        pending = [asyncio.ensure_future(self._settled(request, demand)) for demand in request.demands]
        try:
            grants = [await one for one in pending]
        finally:
            for one in pending:
                one.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
        return pb.LeaseQuotasResponse(grants=grants)

    async def _settled(self, request: pb.LeaseQuotasRequest, demand: pb.QuotaDemand) -> pb.QuotaGrant:
        claim = Claim(
            request.router,
            request.session_id,
            request.sequence,
            demand.window_start.seconds,
            demand.used_units,
            demand.returned_units,
            demand.wanted_units,
        )
        async with self._at_once:
            grant = await self._leases.lease(demand.tenant_uid, Allowance(demand.allowance), claim)
        return _message(demand, grant)


def _message(demand: pb.QuotaDemand, grant: Grant) -> pb.QuotaGrant:
    message = pb.QuotaGrant(
        tenant_uid=demand.tenant_uid,
        allowance=demand.allowance,
        granted_units=grant.granted_units,
        free_units=grant.free_units,
    )
    message.window_start.FromSeconds(grant.span.start_seconds)
    message.window_end.FromSeconds(grant.span.end_seconds)
    message.expire_time.FromNanoseconds(int(grant.expires_seconds * 1e9))
    return message


def _violations(request: pb.LeaseQuotasRequest) -> list[FieldViolation]:
    wrong = [
        FieldViolation(field, f"has to have 1 to {MAX_NAME} characters")
        for field, value in (("router", request.router), ("session_id", request.session_id))
        if not 0 < len(value) <= MAX_NAME
    ]
    if request.sequence < 1:
        wrong.append(FieldViolation("sequence", "has to be at least 1"))
    if not 0 < len(request.demands) <= MAX_DEMANDS:
        wrong.append(FieldViolation("demands", f"has to hold 1 to {MAX_DEMANDS}, not {len(request.demands)}"))
        return wrong
    seen: set[tuple[str, tenant_usage_pb2.Allowance.ValueType]] = set()
    for place, demand in enumerate(request.demands):
        where, quota = f"demands[{place}]", (demand.tenant_uid, demand.allowance)
        if not 0 < len(demand.tenant_uid) <= MAX_NAME or "/" in demand.tenant_uid:
            wrong.append(FieldViolation(f"{where}.tenant_uid", "is no tenant's uid"))
        if int(demand.allowance) not in _ALLOWANCES:
            wrong.append(FieldViolation(f"{where}.allowance", "is not known to this version"))
        if quota in seen:
            wrong.append(FieldViolation(where, "asks for a quota that another demand asks for"))
        seen.add(quota)
        for field in ("used_units", "returned_units", "wanted_units"):
            if not 0 <= getattr(demand, field) <= MAX_UNITS:
                wrong.append(FieldViolation(f"{where}.{field}", f"has to be 0 to {MAX_UNITS}"))
    return wrong
