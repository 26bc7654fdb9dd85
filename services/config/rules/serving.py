"""Decides which pool serves an alias, by the routers' rule, before a config is in force.

The pool that a tenant names serves all its aliases. Without one, each alias is served by the pool of its base model
that the tenant may use and that has been available longest, so that a new pool moves no tenant.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from tenantry.config.v1 import tenant_pb2


class AdapterForm(NamedTuple):
    """The form in which a pool's servers take adapters; a rendition is made for one."""

    dialect: int = 0
    engine_sha256: str = ""
    dtype: str = ""
    columns: int = 0


class PoolFacts(NamedTuple):
    """The facts of a pool that decide what it serves to which tenant."""

    base_model: str
    dedicated_to: str = ""
    """A tenant's name; empty for a shared pool."""
    form: AdapterForm = AdapterForm()
    available_ns: int = 0


class VersionFacts(NamedTuple):
    """The base model and the forms in which an adapter version can be served."""

    base_model: str
    forms: frozenset[AdapterForm] = frozenset({AdapterForm()})


Pools = Mapping[str, PoolFacts]
Adapters = Mapping[str, Mapping[int, VersionFacts]]


def serving_pool(config: tenant_pb2.TenantConfig, tenant_name: str, base_model: str, pools: Pools) -> str:
    """The name of the pool that serves a base model to a tenant; empty for none."""
    dedicated = config.isolation_tier == tenant_pb2.ISOLATION_TIER_DEDICATED
    fitting = [
        (pool.available_ns, name)
        for name, pool in pools.items()
        if pool.base_model == base_model
        and (pool.dedicated_to == tenant_name or (not pool.dedicated_to and not dedicated))
        and config.pool in {"", name}
    ]
    return min(fitting)[1] if fitting else ""


def bound_version(alias: tenant_pb2.ModelAlias, adapters: Adapters) -> VersionFacts | None:
    """The adapter version of an alias: the one it names, or the newest one for its base model."""
    versions = adapters.get(alias.adapter, {})
    fitting = [
        number
        for number, version in versions.items()
        if version.base_model == alias.base_model and alias.adapter_version in {0, number}
    ]
    return versions[max(fitting)] if fitting else None


def is_served(
    alias: tenant_pb2.ModelAlias,
    config: tenant_pb2.TenantConfig,
    tenant_name: str,
    pools: Pools,
    adapters: Adapters,
) -> bool:
    """Whether a pool serves an alias, and its adapter in a form that pool takes."""
    pool = serving_pool(config, tenant_name, alias.base_model, pools)
    if not pool or not alias.adapter:
        return bool(pool)
    version = bound_version(alias, adapters)
    return version is not None and pools[pool].form in version.forms
