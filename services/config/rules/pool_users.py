"""Finds the tenants that a change of a pool would leave unserved. Pure."""

from __future__ import annotations

from tenantry.config.v1 import pool_pb2

from services.config.rules.catalog_facts import adapter_facts, facts_of_pool, pool_facts
from services.config.rules.serving import Pools, is_served, serving_pool
from services.config.state.config_state import ConfigState
from services.config.state.records import TenantRecord


def left_unserved(state: ConfigState, changed: pool_pb2.Pool) -> list[str]:
    """The tenants with an alias that a pool serves now and that no pool would serve after the change.

    An alias that is unserved already does not prevent the change.
    """
    before = pool_facts(state)
    after = {**before, changed.name: facts_of_pool(changed)}
    return [
        record.name
        for record in state.under("tenants/")
        if isinstance(record, TenantRecord) and _loses(state, record, changed.name, before, after)
    ]


def _loses(state: ConfigState, record: TenantRecord, pool: str, before: Pools, after: Pools) -> bool:
    config, name = record.config, record.name
    served_here = [
        alias for alias in config.models if serving_pool(config, name, alias.base_model, before) == pool
    ]
    if not served_here:
        return False
    adapters = adapter_facts(state, record.stored.tenant_uid)
    return any(
        is_served(alias, config, name, before, adapters)
        and not is_served(alias, config, name, after, adapters)
        for alias in served_here
    )
