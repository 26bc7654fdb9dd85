"""Compiles the config service's resources into a `Snapshot`, or lists everything that is wrong with them.

Runs in a thread, off the event loop. After a change of tenants, adapters or keys only those tenants are compiled, so
that one change among 10,000 tenants costs a few copies of dicts; a change of what tenants share compiles everything.
Reasons name resources by key; they never hold tenant text.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from tenantry.config.v1 import config_discovery_service_pb2, credential_pb2, pool_pb2, tenant_pb2

from services.common import gc_pauses
from services.router.snapshot.model import BaseModel, KeyRecord, PoolConfig, Snapshot
from services.router.snapshot.tenant_compiler import DIALECTS, Catalog, compile_tenant
from services.router.text.text_model import TextModel

Resources = Mapping[str, config_discovery_service_pb2.Resource]
LoadTextModel = Callable[[str, str], TextModel]
"""Tokeniser digest and chat template digest to a text model; raises `TextModelError`."""
# TensorRT-LLM's default.
_KV_BLOCK_TOKENS = 64
_OWNED = ("tenants/", "adapters/", "credentials/")


class SnapshotRefusedError(Exception):
    """The resources do not make a snapshot; `reasons` says why, without tenant text."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


@dataclass(frozen=True, slots=True)
class Compiled:
    """A snapshot, and the indexes that the next one is compiled from."""

    snapshot: Snapshot
    catalog: Catalog
    adapter_keys: Mapping[str, frozenset[str]]
    """The keys of each tenant's adapters, by tenant_uid."""
    uid_of_ordinal: Mapping[int, str]
    dedicated_names: frozenset[str]
    """Names of the tenants that pools are dedicated to."""


def compile_snapshot(
    revision: int,
    resources: Resources,
    load_text_model: LoadTextModel,
    before: Compiled | None = None,
    touched: Collection[str] | None = None,
) -> Compiled:
    """Compile, whole or not at all.

    Args:
        revision: the snapshot's.
        resources: all of them.
        load_text_model: opens tokenisers and templates.
        before: the compiled snapshot this one builds on.
        touched: keys that were added, changed or removed since `before`; None for all.

    Raises:
        SnapshotRefusedError: names every resource that is wrong.
    """
    reasons: list[str] = []
    if (
        before is None
        or touched is None
        or _shared(before, resources, touched)
        or _usable_now(before, resources, load_text_model)
    ):
        with gc_pauses.paused():
            compiled = _everything(revision, resources, load_text_model, reasons)
    else:
        compiled = _changed(revision, resources, before, touched, reasons)
    if reasons:
        raise SnapshotRefusedError(reasons)
    return compiled


def _shared(before: Compiled, resources: Resources, touched: Iterable[str]) -> bool:
    """Whether the change touches what tenants share, so that everything is compiled."""
    for key in touched:
        if not key.startswith(_OWNED):
            return True
        if key.startswith("tenants/") and before.dedicated_names:
            known = before.snapshot.tenants.get(key.removeprefix("tenants/"))
            now = resources[key].tenant.name if key in resources else None
            # Pools name their owner by name, and a name may pass to another tenant.
            if (known.name if known else None) != now:
                return True  # proven: renamed-owner
    return False


def _usable_now(before: Compiled, resources: Resources, load_text_model: LoadTextModel) -> bool:
    """Whether a base model that was unusable can be used now: its artifacts may only have been out of reach."""
    for name in before.snapshot.unusable_models:
        model = resources[name].base_model
        try:
            load_text_model(model.tokenizer_sha256, model.chat_template_sha256)
        except ValueError:
            continue
        return True
    return False


def _everything(
    revision: int, resources: Resources, load_text_model: LoadTextModel, reasons: list[str]
) -> Compiled:
    by_kind: dict[str, list[config_discovery_service_pb2.Resource]] = {}
    adapter_keys: dict[str, set[str]] = {}
    for key in sorted(resources):
        resource = resources[key]
        kind = resource.WhichOneof("resource")
        if kind is None:
            reasons.append(f"{key}: a kind of resource this router does not know")
            continue
        by_kind.setdefault(kind, []).append(resource)
        if kind == "adapter":
            adapter_keys.setdefault(resource.adapter.tenant_uid, set()).add(key)
    tenants = [resource.tenant for resource in by_kind.get("tenant", [])]
    found_pools = [resource.pool for resource in by_kind.get("pool", [])]
    models, unusable = _base_models([r.base_model for r in by_kind.get("base_model", [])], load_text_model)
    pools = _pools(found_pools, {tenant.name: tenant.tenant_uid for tenant in tenants}, reasons)
    catalog, uid_of_ordinal = Catalog(models, pools), dict[int, str]()
    compiled = {}
    for tenant in tenants:
        _take_ordinal(uid_of_ordinal, tenant, reasons)
        own = (resources[key].adapter for key in sorted(adapter_keys.get(tenant.tenant_uid, ())))
        compiled[tenant.tenant_uid] = compile_tenant(tenant, own, catalog, reasons)
    _require_owners(adapter_keys, compiled, reasons)
    credentials = [r.credential for r in by_kind.get("credential", []) if r.credential.tenant_uid]
    keys = {key.key_id: key for key in map(_key_record, credentials)}
    return Compiled(
        Snapshot(revision, compiled, keys, pools, unusable),
        catalog,
        {uid: frozenset(own_keys) for uid, own_keys in adapter_keys.items()},
        uid_of_ordinal,
        frozenset(pool.dedicated_to for pool in found_pools if pool.dedicated_to),
    )


def _changed(
    revision: int, resources: Resources, before: Compiled, touched: Collection[str], reasons: list[str]
) -> Compiled:
    tenants, keys = dict(before.snapshot.tenants), dict(before.snapshot.keys)
    adapter_keys, uid_of_ordinal = dict(before.adapter_keys), dict(before.uid_of_ordinal)
    anew: set[str] = set()
    for key in touched:
        kind, _, name = key.partition("/")
        resource = resources.get(key)
        if resource is not None and resource.WhichOneof("resource") is None:
            reasons.append(f"{key}: a kind of resource this router does not know")
        elif kind == "credentials":
            keys.pop(name, None)
            if resource is not None and resource.credential.tenant_uid:
                record = _key_record(resource.credential)
                keys[record.key_id] = record
        else:
            uid = name.partition("/")[0]
            anew.add(uid)
            if kind == "adapters":
                own = adapter_keys.get(uid, frozenset())
                own = own | {key} if resource is not None else own - {key}  # proven: dropped-adapter
                adapter_keys[uid] = own
    for uid in anew:
        gone = tenants.pop(uid, None)
        if gone is not None:
            del uid_of_ordinal[gone.ordinal]  # proven: freed-ordinal
    for uid in sorted(anew):
        resource = resources.get(f"tenants/{uid}")
        if resource is None:
            continue
        _take_ordinal(uid_of_ordinal, resource.tenant, reasons)
        own_adapters = (resources[key].adapter for key in sorted(adapter_keys.get(uid, ())))
        tenants[uid] = compile_tenant(resource.tenant, own_adapters, before.catalog, reasons)
    for uid in anew:
        if not adapter_keys.get(uid):
            adapter_keys.pop(uid, None)
    _require_owners({uid: adapter_keys[uid] for uid in anew if uid in adapter_keys}, tenants, reasons)
    snapshot = Snapshot(revision, tenants, keys, before.snapshot.pools, before.snapshot.unusable_models)
    return Compiled(snapshot, before.catalog, adapter_keys, uid_of_ordinal, before.dedicated_names)


def _base_models(
    found: list[pool_pb2.BaseModel], load_text_model: LoadTextModel
) -> tuple[dict[str, BaseModel], dict[str, str]]:
    """All base models, and why some cannot be used; these do not make the whole snapshot refused."""
    models, unusable = {}, {}
    for model in found:
        text: TextModel | None = None
        try:
            text = load_text_model(model.tokenizer_sha256, model.chat_template_sha256)
        except ValueError as error:
            unusable[model.name] = str(error)  # proven: unusable-model-refuses-no-snapshot
        models[model.name] = BaseModel(
            name=model.name,
            weights_sha256=model.weights_sha256,
            context_tokens=model.context_tokens,
            end_token_id=model.end_token_id,
            pad_token_id=model.pad_token_id,
            text_model=text,
        )
    return models, unusable


def _pools(
    found: list[pool_pb2.Pool], uid_of: Mapping[str, str], reasons: list[str]
) -> dict[str, PoolConfig]:
    """By name, those first that have been available longest: the order in which tenants' pools are chosen."""
    pools = {}
    for pool in sorted(found, key=lambda pool: (pool.available_time.ToNanoseconds(), pool.name)):
        if pool.dialect not in DIALECTS:
            reasons.append(f"{pool.name}: a dialect this router does not know")
            continue
        pools[pool.name] = PoolConfig(
            name=pool.name,
            base_model=pool.base_model,
            dialect=DIALECTS[pool.dialect],
            server_model=pool.server_model,
            targets=tuple(dict.fromkeys(endpoint.target for endpoint in pool.endpoints)),
            concurrent_requests=pool.capacity.concurrent_requests,
            adapters=pool.capacity.adapters,
            kv_tokens=pool.capacity.kv_tokens,
            queued_requests=pool.capacity.queued_requests,
            engine_sha256=pool.engine_sha256,
            adapter_dtype=pool.adapter_dtype,
            adapter_config_columns=pool.adapter_config_columns,
            # A pool dedicated to a tenant that is gone serves no tenant: no uid equals the empty string.
            dedicated_to_uid=uid_of.get(pool.dedicated_to, "") if pool.dedicated_to else None,
            headroom_requests=pool.capacity.headroom_requests,
            kv_block_tokens=pool.capacity.kv_block_tokens or _KV_BLOCK_TOKENS,
            metrics_urls=tuple((one.target, one.metrics_url) for one in pool.endpoints if one.metrics_url),
        )
    return pools


def _take_ordinal(uid_of_ordinal: dict[int, str], tenant: tenant_pb2.Tenant, reasons: list[str]) -> None:
    taken = uid_of_ordinal.setdefault(tenant.ordinal, tenant.tenant_uid) != tenant.tenant_uid
    if taken or not 1 <= tenant.ordinal < 1 << 23:
        reasons.append(f"tenants/{tenant.tenant_uid}: the ordinal is out of range or taken")


def _require_owners(
    adapter_keys: Mapping[str, Iterable[str]], tenants: Mapping[str, object], reasons: list[str]
) -> None:
    for uid, keys in adapter_keys.items():
        if uid not in tenants:
            reasons.extend(f"{key}: an adapter of no tenant" for key in keys)


def _key_record(credential: config_discovery_service_pb2.CredentialResource) -> KeyRecord:
    key = credential.key
    return KeyRecord(
        key_id=key.name.rsplit("/", 1)[-1],
        tenant_uid=sys.intern(credential.tenant_uid),
        active=key.state == credential_pb2.KEY_STATE_ACTIVE,
        expire_seconds=key.expire_time.ToNanoseconds() / 1e9,
        allows_inference=not key.scopes or "inference" in key.scopes,
    )
