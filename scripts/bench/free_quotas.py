"""A quota lease service that grants what is wanted: what quotas cost a router, without etcd."""

from __future__ import annotations

import time
from typing import Any

from tenantry.config.v1 import quota_lease_service_pb2 as pb
from tenantry.config.v1 import quota_lease_service_pb2_grpc as rpc

_WINDOW_SECONDS = 86_400
_LEASE_SECONDS = 3600
_FREE_UNITS = 1 << 40


class FreeQuotas(rpc.QuotaLeaseServiceServicer):
    """Every demand is granted whole."""

    async def LeaseQuotas(
        self,
        request: pb.LeaseQuotasRequest,
        context: Any,  # noqa: ARG002 - gRPC passes it
    ) -> pb.LeaseQuotasResponse:
        """Grant every demand."""
        now = int(time.time())
        start = now - now % _WINDOW_SECONDS
        response = pb.LeaseQuotasResponse()
        for demand in request.demands:
            grant = response.grants.add(
                tenant_uid=demand.tenant_uid,
                allowance=demand.allowance,
                granted_units=demand.wanted_units,
                free_units=_FREE_UNITS,
            )
            grant.window_start.FromSeconds(start)
            grant.window_end.FromSeconds(start + _WINDOW_SECONDS)
            grant.expire_time.FromSeconds(now + _LEASE_SECONDS)
        return response
