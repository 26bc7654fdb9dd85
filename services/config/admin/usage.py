"""Shows what a tenant has used of its quotas and spend budgets."""

from __future__ import annotations

from tenantry.config.v1 import config_admin_service_pb2 as pb
from tenantry.config.v1 import tenant_usage_pb2

from services.config.admin.edits import Context, Edits
from services.config.admin.tenant_config import find_tenant
from services.config.quota.allowances import Allowance, Allowed, allowed
from services.config.quota.leases import QuotaLeases
from services.config.quota.ledger import Account


class UsageAdmin:
    """The admin RPC of usage."""

    def __init__(self, edits: Edits, leases: QuotaLeases) -> None:
        self._edits = edits
        self._leases = leases

    async def get(self, request: pb.GetTenantUsageRequest, context: Context) -> tenant_usage_pb2.TenantUsage:
        """Get a tenant's usage; nothing for allowances that its config does not have."""
        operator = self._edits.operator(context, request)
        record = find_tenant(self._edits.state, operator, request.name, "name")
        usage = tenant_usage_pb2.TenantUsage(name=record.name)
        for allowance in Allowance:
            most = allowed(record, allowance)
            if most.units:
                account = await self._leases.account(record.stored.tenant_uid, allowance)
                usage.allowances.append(_message(allowance, most, account))
        return usage


def _message(allowance: Allowance, most: Allowed, account: Account) -> tenant_usage_pb2.AllowanceUsage:
    message = tenant_usage_pb2.AllowanceUsage(
        allowance=tenant_usage_pb2.Allowance.ValueType(allowance.value),
        limit_units=most.units,
        used_units=account.used_units,
        held_units=account.held_units,
        enforced=most.refuses,
    )
    message.window_start.FromSeconds(account.span.start_seconds)
    message.window_end.FromSeconds(account.span.end_seconds)
    return message
