"""Compiles the config service's resources into a `Snapshot`, or says everything that is wrong with them.

Runs in a thread, off the event loop. Reasons name resources by key; they never hold tenant text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tenantry.config.v1 import adapter_pb2, config_discovery_service_pb2, credential_pb2, pool_pb2, tenant_pb2

from services.router.snapshot import (
    LORA_SERIAL_BITS,
    AdapterRendition,
    AdapterVersion,
    BaseModel,
    KeyRecord,
    ModelTarget,
    PoolConfig,
    Snapshot,
    Tenant,
    Tier,
    bind_adapter,
)
from services.router.tenant_rules import durability, limits, parameter_rules, tier, timeouts
from services.router.text_model import TextModel

_DIALECTS = {
    adapter_pb2.DIALECT_TRTLLM_ENGINE: "TRTLLM_ENGINE",
    adapter_pb2.DIALECT_TRTLLM_LLMAPI: "TRTLLM_LLMAPI",
    adapter_pb2.DIALECT_VLLM: "VLLM",
}

Resources = Mapping[str, config_discovery_service_pb2.Resource]
LoadTextModel = Callable[[str, str], TextModel]
"""Tokeniser digest and chat template digest to a text model; raises `TextModelError`."""


class SnapshotRefusedError(Exception):
    """The resources do not make a whole snapshot; `reasons` says why, without tenant text."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


def compile_snapshot(revision: int, resources: Resources, load_text_model: LoadTextModel) -> Snapshot:
    """Compile, whole or not at all.

    Raises:
        SnapshotRefusedError: names every resource that is wrong.
    """
    compiler = _Compiler(resources, load_text_model)
    snapshot = compiler.compile(revision)
    if compiler.reasons:
        raise SnapshotRefusedError(compiler.reasons)
    return snapshot


class _Compiler:
    def __init__(self, resources: Resources, load_text_model: LoadTextModel) -> None:
        self._resources = resources
        self._load_text_model = load_text_model
        self.reasons: list[str] = []

    def compile(self, revision: int) -> Snapshot:
        by_kind: dict[str, list[config_discovery_service_pb2.Resource]] = {}
        for key in sorted(self._resources):
            resource = self._resources[key]
            kind = resource.WhichOneof("resource")
            if kind is None:
                self.reasons.append(f"{key}: a kind of resource this router does not know")
            else:
                by_kind.setdefault(kind, []).append(resource)
        models = self._base_models([r.base_model for r in by_kind.get("base_model", [])])
        tenants = [r.tenant for r in by_kind.get("tenant", [])]
        uid_of = {tenant.name: tenant.tenant_uid for tenant in tenants}
        pools = self._pools([r.pool for r in by_kind.get("pool", [])], uid_of)
        ordinal_of = self._ordinals(tenants)
        adapters = self._adapters([r.adapter for r in by_kind.get("adapter", [])], ordinal_of)
        compiled = {
            tenant.tenant_uid: self._tenant(tenant, models, pools, adapters.get(tenant.tenant_uid, {}))
            for tenant in tenants
        }
        keys = [_key_record(r.credential) for r in by_kind.get("credential", []) if r.credential.tenant_uid]
        return Snapshot(revision, compiled, {key.key_id: key for key in keys}, pools)

    def _base_models(self, found: list[pool_pb2.BaseModel]) -> dict[str, BaseModel]:
        models = {}
        for model in found:
            try:
                text = self._load_text_model(model.tokenizer_sha256, model.chat_template_sha256)
            except ValueError as error:
                self.reasons.append(f"{model.name}: {error}")
                continue
            models[model.name] = BaseModel(
                name=model.name,
                weights_sha256=model.weights_sha256,
                context_tokens=model.context_tokens,
                end_token_id=model.end_token_id,
                pad_token_id=model.pad_token_id,
                text=text,
            )
        return models

    def _pools(self, found: list[pool_pb2.Pool], uid_of: dict[str, str]) -> dict[str, PoolConfig]:
        pools = {}
        for pool in found:
            if pool.dialect not in _DIALECTS:
                self.reasons.append(f"{pool.name}: a dialect this router does not know")
                continue
            pools[pool.name] = PoolConfig(
                name=pool.name,
                base_model=pool.base_model,
                dialect=_DIALECTS[pool.dialect],
                server_model=pool.server_model,
                targets=tuple(dict.fromkeys(endpoint.target for endpoint in pool.endpoints)),
                concurrent_requests=pool.capacity.concurrent_requests,
                adapters=pool.capacity.adapters,
                kv_tokens=pool.capacity.kv_tokens,
                queued_requests=pool.capacity.queued_requests,
                engine_sha256=pool.engine_sha256,
                adapter_dtype=pool.adapter_dtype,
                adapter_config_columns=pool.adapter_config_columns,
                # A pool dedicated to a tenant that is gone serves nobody: no uid equals the empty string.
                dedicated_to_uid=uid_of.get(pool.dedicated_to, "") if pool.dedicated_to else None,
            )
        return pools

    def _ordinals(self, tenants: list[tenant_pb2.Tenant]) -> dict[str, int]:
        ordinal_of: dict[str, int] = {}
        owner_of: dict[int, str] = {}
        for tenant in tenants:
            if not 1 <= tenant.ordinal < 1 << 23 or owner_of.setdefault(
                tenant.ordinal, tenant.tenant_uid
            ) != (tenant.tenant_uid):
                self.reasons.append(f"tenants/{tenant.tenant_uid}: the ordinal is out of range or taken")
            ordinal_of[tenant.tenant_uid] = tenant.ordinal
        return ordinal_of

    def _adapters(
        self, found: list[config_discovery_service_pb2.AdapterResource], ordinal_of: dict[str, int]
    ) -> dict[str, dict[str, list[AdapterVersion]]]:
        adapters: dict[str, dict[str, list[AdapterVersion]]] = {}
        digest_of: dict[int, str] = {}
        for resource in found:
            adapter_id = resource.adapter.name.rsplit("/", 1)[-1]
            versions = []
            for version in resource.adapter.versions:
                for rendition in version.renditions:
                    if rendition.lora_id >> LORA_SERIAL_BITS != ordinal_of.get(resource.tenant_uid):
                        self.reasons.append(
                            f"adapters/{resource.tenant_uid}/{adapter_id}: a lora id of another tenant"
                        )
                    if digest_of.setdefault(rendition.lora_id, rendition.sha256) != rendition.sha256:
                        self.reasons.append(
                            f"adapters/{resource.tenant_uid}/{adapter_id}: one lora id, two weights"
                        )
                versions.append(_adapter_version(adapter_id, version, resource.artifact_key))
            versions.sort(key=lambda version: version.version, reverse=True)
            adapters.setdefault(resource.tenant_uid, {})[adapter_id] = versions
        return adapters

    def _tenant(
        self,
        tenant: tenant_pb2.Tenant,
        models: dict[str, BaseModel],
        pools: dict[str, PoolConfig],
        adapters: dict[str, list[AdapterVersion]],
    ) -> Tenant:
        config = tenant.config
        kept_apart = tier(config.isolation_tier)
        usable = {} if kept_apart is Tier.SHARED else adapters
        targets = {}
        for alias in config.models:
            model = models.get(alias.base_model)
            if model is None:
                self.reasons.append(
                    f"tenants/{tenant.tenant_uid}: an alias names a base model that is not there"
                )
                continue
            if alias.adapter and alias.adapter not in usable:
                self.reasons.append(f"tenants/{tenant.tenant_uid}: an alias names an adapter it may not use")
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
        default_seconds, max_seconds = timeouts(config)
        return Tenant(
            tenant_uid=tenant.tenant_uid,
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
        )


def _pool_for(
    tenant: tenant_pb2.Tenant, kept_apart: Tier, base_model: str, pools: dict[str, PoolConfig]
) -> PoolConfig | None:
    named = tenant.config.pool
    # Names are compared as text, so that the choice is the same at every router.
    for name in [named] if named else sorted(pools):
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
            dialect=_DIALECTS.get(rendition.dialect, ""),
            lora_id=rendition.lora_id,
            sha256=rendition.sha256,
            artifact_sha256=rendition.artifact_sha256,
            size_bytes=rendition.size_bytes,
            dtype=rendition.dtype,
            config_columns=rendition.config_columns,
            engine_sha256=rendition.engine_sha256,
        )
        for rendition in version.renditions
    )
    return AdapterVersion(
        adapter=adapter_id,
        version=version.version,
        base_model=version.base_model,
        source_sha256=version.source_sha256,
        renditions=renditions,
        artifact_key=artifact_key,
    )


def _key_record(credential: config_discovery_service_pb2.CredentialResource) -> KeyRecord:
    key = credential.key
    return KeyRecord(
        key_id=key.name.rsplit("/", 1)[-1],
        tenant_uid=credential.tenant_uid,
        active=key.state == credential_pb2.KEY_STATE_ACTIVE,
        expire_seconds=key.expire_time.ToNanoseconds() / 1e9,
        allows_inference=not key.scopes or "inference" in key.scopes,
    )
