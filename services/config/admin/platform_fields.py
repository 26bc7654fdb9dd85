"""The fields of a tenant's config that its tenant-admin may not change. Pure.

They decide the tenant's share of what tenants share, where it runs, and what is recorded of it.
"""

from __future__ import annotations

from typing import Any

from tenantry.config.v1 import tenant_pb2

from services.common.errors import PermissionDeniedError
from services.config.state.operators import PLATFORM_ADMIN, Operator

PLATFORM_FIELDS = (
    "audit_policy",
    "isolation_tier",
    "limits",
    "pool",
    "prices",
    "quotas",
    "shadow_limits",
    "spend_budgets",
    "weight",
)


def require_may_change(
    operator: Operator, before: tenant_pb2.TenantConfig, after: tenant_pb2.TenantConfig, path: str
) -> None:
    """Let platform-admins pass, and tenant-admins that leave the platform's fields as they are.

    Values are compared, not masks, so that an exported config can be sent back whole.

    Raises:
        PermissionDeniedError: such a field would change; the error names every one.
    """
    if operator.role == PLATFORM_ADMIN:
        return
    changed = [name for name in PLATFORM_FIELDS if _value(before, name) != _value(after, name)]
    if not changed:
        return
    named = [f"{path}.{name}" for name in changed]
    raise PermissionDeniedError(
        f"this needs the role platform-admin: {', '.join(named)}", metadata={"fields": ",".join(named)}
    )


def _value(config: tenant_pb2.TenantConfig, name: str) -> tuple[bool, Any]:
    """A field's presence and value: a default that is unset differs from the same value set."""
    field = config.DESCRIPTOR.fields_by_name[name]
    return (config.HasField(name) if field.has_presence else True), getattr(config, name)  # type: ignore[arg-type]
