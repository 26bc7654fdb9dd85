"""Resource names as the contract writes them; short ids are what people type."""

from __future__ import annotations


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
