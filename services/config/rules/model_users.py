"""Finds what refers to a base model. Pure."""

from __future__ import annotations

from services.config.state.config_state import ConfigState
from services.config.state.records import AdapterRecord, PoolRecord, TenantRecord


def users_of(state: ConfigState, model: str) -> list[str]:
    """The resource names of all pools, tenants and adapters that would be left without a base model."""
    pools = [
        record.pool.name
        for record in state.under("pools/")
        if isinstance(record, PoolRecord) and record.pool.base_model == model
    ]
    tenants = [
        record.name
        for record in state.under("tenants/")
        if isinstance(record, TenantRecord) and any(a.base_model == model for a in record.config.models)
    ]
    adapters = [
        _adapter_name(state, record)
        for record in state.under("adapters/")
        if isinstance(record, AdapterRecord) and any(v.base_model == model for v in record.stored.versions)
    ]
    return sorted(pools) + sorted(tenants) + sorted(adapters)


def _adapter_name(state: ConfigState, record: AdapterRecord) -> str:
    owner = state.tenant_by_uid(record.stored.tenant_uid)
    return f"{owner.name if owner else 'tenants/-'}/adapters/{record.stored.adapter_id}"
