"""Weight, tier, pool and priorities: a tenant's place among the others, and its requests' among themselves."""

from __future__ import annotations

from tenantry.config.v1 import tenant_pb2

from services.config.rules.report import Report, Surroundings, between

MAX_WEIGHT = 1000
LOW, NORMAL, HIGH = 1, 2, 3
"""The numbers of `tenantry.inference.v1.Priority`."""


def check_weight(config: tenant_pb2.TenantConfig, report: Report) -> None:
    """1 to 1000."""
    if config.HasField("weight") and not 1 <= config.weight <= MAX_WEIGHT:
        report("weight", f"is {config.weight}, not 1 to {MAX_WEIGHT}")


def check_pool(config: tenant_pb2.TenantConfig, around: Surroundings, report: Report) -> None:
    """A pool that is there, is not another tenant's, serves the aliased models, and is what the tier asks."""
    dedicated = config.isolation_tier == tenant_pb2.ISOLATION_TIER_DEDICATED
    if not config.pool:
        if dedicated:
            report("pool", "is needed by the tier DEDICATED")
        return
    pool = around.pools.get(config.pool)
    owner = pool[1] if pool else ""
    # A pool dedicated to somebody else looks like one that does not exist.
    if pool is None or (owner and owner != around.tenant_name):
        report("pool", "names no pool this tenant may use")
        return
    if dedicated and owner != around.tenant_name:
        report("pool", "is not dedicated to this tenant, as the tier DEDICATED asks")
    for number, alias in enumerate(config.models):
        if alias.base_model in around.models and alias.base_model != pool[0]:
            report(f"models[{number}].base_model", "is not the one the tenant's pool serves")


def check_priorities(config: tenant_pb2.TenantConfig, report: Report) -> None:
    """Each one of the contract's, and the default no higher than the highest granted."""
    rules = config.priorities
    good = between(rules, "default_priority", LOW, HIGH, "priorities", report)
    good &= between(rules, "max_priority", LOW, HIGH, "priorities", report)
    if not good:
        return
    default = rules.default_priority if rules.HasField("default_priority") else NORMAL
    most = rules.max_priority if rules.HasField("max_priority") else HIGH
    # A default that is left unset gives way to a lower maximum.
    if rules.HasField("default_priority") and default > most:
        report("priorities.default_priority", f"is {default}, more than {most}, max_priority")
