"""Compiles one tenant: its aliases bound to models, pools and adapters. Pure.

Reasons name resources by key; they never hold tenant text.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tenantry.config.v1 import adapter_pb2, config_discovery_service_pb2, tenant_pb2

from services.common.request_sizes import MAX_INPUT_BYTES
from services.router.snapshot.model import (
    LORA_SERIAL_BITS,
    AdapterRendition,
    AdapterVersion,
    BaseModel,
    ModelTarget,
    PoolConfig,
    Tenant,
    Tier,
    bind_adapter,
)
from services.router.snapshot.tenant_rules import (
    allowances,
    durability,
    guardrail_rules,
    key_limits,
    limits,
    parameter_rules,
    prices,
    priority_rules,
    shadow_limits,
    tier,
    timeouts,
)

_log = logging.getLogger(__name__)

DIALECTS = {
    adapter_pb2.DIALECT_TRTLLM_ENGINE: "TRTLLM_ENGINE",
    adapter_pb2.DIALECT_TRTLLM_LLMAPI: "TRTLLM_LLMAPI",
    adapter_pb2.DIALECT_VLLM: "VLLM",
}


@dataclass(frozen=True, slots=True)
class Catalog:
    """The resources that tenants share, by name."""

    models: Mapping[str, BaseModel]
    pools: Mapping[str, PoolConfig]
    """In the order of choice."""


def compile_tenant(
    tenant: tenant_pb2.Tenant,
    resources: Iterable[config_discovery_service_pb2.AdapterResource],
    catalog: Catalog,
    reasons: list[str],
) -> Tenant:
    """Compile one tenant with its adapters; adds everything that is wrong with it to `reasons`."""
    models, pools = catalog.models, catalog.pools
    adapters = _adapters(tenant, resources, reasons)
    config = tenant.config
    kept_apart = tier(config.isolation_tier)
    usable = {} if kept_apart is Tier.SHARED else adapters
    targets = {}
    for alias in config.models:
        model = models.get(alias.base_model)
        if model is None:
            reasons.append(f"tenants/{tenant.tenant_uid}: an alias names a base model that is not there")
            continue
        if alias.adapter and alias.adapter not in usable:
            reasons.append(f"tenants/{tenant.tenant_uid}: an alias names an adapter it may not use")
            continue
        pool = _pool_for(tenant, kept_apart, model.name, pools)
        binding = None
        if alias.adapter and pool:
            binding = bind_adapter(usable[alias.adapter], alias.adapter_version, model.name, pool)
        own_prompt = alias.HasField("system_prompt")
        targets[alias.alias] = ModelTarget(
            alias=alias.alias,
            base_model=model,
            pool=pool,
            adapter=alias.adapter,
            binding=binding,
            system_prompt=alias.system_prompt if own_prompt else config.system_prompt,
        )
    first = config.models[0].alias if config.models else ""
    if config.limits.input_bytes > MAX_INPUT_BYTES:
        # Written before the config service knew this bound.
        _log.warning(
            "tenant %s: limits.input_bytes is %d; %d is in force, the most that works",
            tenant.tenant_uid,
            config.limits.input_bytes,
            MAX_INPUT_BYTES,
        )
    default_seconds, max_seconds = timeouts(config)
    return Tenant(
        tenant_uid=sys.intern(tenant.tenant_uid),
        name=tenant.name,
        ordinal=tenant.ordinal,
        active=tenant.state == tenant_pb2.TENANT_STATE_ACTIVE,
        config_version=tenant.config_version,
        config_sha256=tenant.config_sha256,
        tier=kept_apart,
        weight=config.weight if config.HasField("weight") else 100,
        durability=durability(config.audit_policy),
        serve_stale=config.staleness_policy != tenant_pb2.STALENESS_POLICY_REFUSE,
        default_timeout_seconds=default_seconds,
        max_timeout_seconds=max_seconds,
        limits=limits(config.limits),
        parameters=parameter_rules(config),
        targets=targets,
        default_alias=config.default_model or first,
        adapters=usable,
        guardrails=guardrail_rules(config),
        priorities=priority_rules(config.priorities),
        allowances=allowances(config),
        key_limits=key_limits(config),
        shadow_limits=shadow_limits(config),
        prices=prices(config),
    )


def _adapters(
    tenant: tenant_pb2.Tenant,
    resources: Iterable[config_discovery_service_pb2.AdapterResource],
    reasons: list[str],
) -> dict[str, list[AdapterVersion]]:
    adapters: dict[str, list[AdapterVersion]] = {}
    digest_of: dict[int, str] = {}
    for resource in resources:
        adapter_id = sys.intern(resource.adapter.name.rsplit("/", 1)[-1])
        key = f"adapters/{resource.tenant_uid}/{adapter_id}"
        versions = []
        for version in resource.adapter.versions:
            for rendition in version.renditions:
                # Ids of different tenants differ in these bits, so that the next check needs those of one tenant only.
                if rendition.lora_id >> LORA_SERIAL_BITS != tenant.ordinal:
                    reasons.append(f"{key}: a lora id of another tenant")
                if digest_of.setdefault(rendition.lora_id, rendition.sha256) != rendition.sha256:
                    reasons.append(f"{key}: one lora id, two weights")
            versions.append(_adapter_version(adapter_id, version, resource.artifact_key))
        versions.sort(key=lambda version: version.version, reverse=True)
        adapters[adapter_id] = versions
    return adapters


def _pool_for(
    tenant: tenant_pb2.Tenant, kept_apart: Tier, base_model: str, pools: Mapping[str, PoolConfig]
) -> PoolConfig | None:
    named = tenant.config.pool
    # The first that fits: a new pool comes last, so that adding it moves no tenant.
    for name in [named] if named else pools:
        pool = pools.get(name)
        if pool is None or pool.base_model != base_model:
            continue
        own = pool.dedicated_to_uid == tenant.tenant_uid
        if own or (pool.dedicated_to_uid is None and kept_apart is not Tier.DEDICATED):
            return pool
    return None


def _adapter_version(
    adapter_id: str, version: adapter_pb2.AdapterVersion, artifact_key: bytes
) -> AdapterVersion:
    renditions = tuple(
        AdapterRendition(
            dialect=DIALECTS.get(rendition.dialect, ""),
            lora_id=rendition.lora_id,
            sha256=rendition.sha256,
            artifact_sha256=rendition.artifact_sha256,
            dtype=sys.intern(rendition.dtype),
            config_columns=rendition.config_columns,
            engine_sha256=sys.intern(rendition.engine_sha256),
        )
        for rendition in version.renditions
    )
    return AdapterVersion(
        adapter=adapter_id,
        version=version.version,
        base_model=sys.intern(version.base_model),
        source_sha256=version.source_sha256,
        renditions=renditions,
        artifact_key=artifact_key,
    )
