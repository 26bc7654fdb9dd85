"""Makes the contract's resource names of the short ids that people type."""

from __future__ import annotations

import re

_TENANT_ID = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
TENANT_ID_FORM = "1 to 63 of a-z, 0-9 and -, not - at an end"


def is_tenant_id(text: str) -> bool:
    """Whether a text can be a tenant's name; the service's own rule."""
    return _TENANT_ID.fullmatch(text) is not None


def tenant_name(tenant: str) -> str:
    """`tenants/acme` for `acme`; a full name stays as it is."""
    return _full("tenants", tenant)


def operator_name(operator: str) -> str:
    """`operators/ada` for `ada`; a full name stays as it is."""
    return _full("operators", operator)


def model_name(model: str) -> str:
    """`models/smollm2` for `smollm2`; a full name stays as it is."""
    return _full("models", model)


def pool_name(pool: str) -> str:
    """`pools/main` for `main`; a full name stays as it is."""
    return _full("pools", pool)


def adapter_name(tenant: str, adapter: str) -> str:
    """`tenants/acme/adapters/pirate`."""
    return f"{tenant_name(tenant)}/adapters/{short(adapter)}"


def audit_log_name(tenant_uid: str) -> str:
    """`tenants/{tenant_uid}/auditLog`."""
    return f"tenants/{tenant_uid}/auditLog"


def short(name: str) -> str:
    """The last part of a name."""
    return name.rsplit("/", 1)[-1]


def _full(collection: str, name: str) -> str:
    return name if name.startswith(f"{collection}/") else f"{collection}/{name}"
