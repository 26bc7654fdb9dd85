"""Checks weight, tier, pool and priorities: a tenant's place among others, and its requests' among themselves."""

from __future__ import annotations

from tenantry.config.v1 import tenant_pb2

from services.config.rules.report import Report, Surroundings, between
from services.config.rules.serving import bound_version, serving_pool

MAX_WEIGHT = 1000
LOW, NORMAL, HIGH = 1, 2, 3
"""The numbers of `tenantry.inference.v1.Priority`."""


def check_weight(config: tenant_pb2.TenantConfig, report: Report) -> None:
    """Check that a weight is 1 to 1000."""
    if config.HasField("weight") and not 1 <= config.weight <= MAX_WEIGHT:
        report("weight", f"is {config.weight}, not 1 to {MAX_WEIGHT}")


def check_pool(config: tenant_pb2.TenantConfig, around: Surroundings, report: Report) -> None:
    """Check that the pool fits the tier, and that a pool serves every alias with its adapter in that pool's form."""
    dedicated = config.isolation_tier == tenant_pb2.ISOLATION_TIER_DEDICATED
    if not config.pool and dedicated:
        report("pool", "is needed by the tier DEDICATED")
        return
    if config.pool:
        pool = around.pools.get(config.pool)
        # A pool dedicated to another tenant looks like one that does not exist.
        if pool is None or pool.dedicated_to not in {"", around.tenant_name}:
            report("pool", "names no pool this tenant may use")  # proven: no-tenant-text
            return
        if dedicated and pool.dedicated_to != around.tenant_name:
            report("pool", "is not dedicated to this tenant, as the tier DEDICATED asks")
            return
    for number, alias in enumerate(config.models):
        if alias.base_model in around.models:
            _resolves(alias, f"models[{number}]", config, around, report)


def _resolves(
    alias: tenant_pb2.ModelAlias,
    where: str,
    config: tenant_pb2.TenantConfig,
    around: Surroundings,
    report: Report,
) -> None:
    name = serving_pool(config, around.tenant_name, alias.base_model, around.pools)
    if not name:
        what = (
            "is not the one the tenant's pool serves"
            if config.pool
            else "is served by no pool this tenant may use"
        )
        report(f"{where}.base_model", what)
        return
    version = bound_version(alias, around.adapters)
    if version is not None and around.pools[name].form not in version.forms:
        report(f"{where}.adapter", "has no rendition in the form that its pool takes: register it again")


def check_priorities(config: tenant_pb2.TenantConfig, report: Report) -> None:
    """Check that each priority is one of the contract's, and the default not above the highest granted."""
    rules = config.priorities
    good = between(rules, "default_priority", LOW, HIGH, "priorities", report)
    good &= between(rules, "max_priority", LOW, HIGH, "priorities", report)
    if not good:
        return
    default = rules.default_priority if rules.HasField("default_priority") else NORMAL
    most = rules.max_priority if rules.HasField("max_priority") else HIGH
    # An unset default is lowered to the maximum.
    if rules.HasField("default_priority") and default > most:
        report("priorities.default_priority", f"is {default}, more than {most}, max_priority")
