"""Fills an etcd with tenants of a stated shape, as the config service would have written them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.timestamp_pb2 import Timestamp
from tenantry.config.v1 import adapter_pb2, credential_pb2, pool_pb2, stored_pb2, tenant_pb2

from services.config.etcd import keys as etcd_keys
from services.config.etcd.store import ConfigStore
from services.config.state.sealed_versions import seal_in_force
from services.config.state.sealing import TenantKeys, load_root_key

ENGINE_SHA256 = "e" * 64
WRITERS = 8
_FAR_FUTURE_SECONDS = 4_000_000_000


@dataclass(frozen=True, slots=True)
class Shape:
    """Of each tenant."""

    prompt_bytes: int = 2048
    patterns: int = 5
    keys: int = 3
    adapters: int = 2


async def populate(
    store: ConfigStore,
    state_dir: Path,
    text_digests: tuple[str, str],
    tenants: int,
    shape: Shape,
    progress: Callable[[int, int], None],
) -> None:
    """Write a base model, a pool and the tenants; the config service is not running yet."""
    keys = TenantKeys(load_root_key(state_dir / "root.kek"))
    tokenizer, template = text_digests
    model = pool_pb2.BaseModel(
        name="models/m",
        weights_sha256="a" * 64,
        tokenizer_sha256=tokenizer,
        chat_template_sha256=template,
        context_tokens=2048,
        end_token_id=2,
        pad_token_id=2,
        architecture=pool_pb2.Architecture(
            layers=30, hidden=576, heads=9, kv_heads=3, head_dim=64, mlp=1536, vocabulary=49152
        ),
    )
    pool = pool_pb2.Pool(
        name="pools/p",
        base_model="models/m",
        dialect=adapter_pb2.DIALECT_TRTLLM_ENGINE,
        server_model="tensorrt_llm",
        endpoints=[pool_pb2.Endpoint(target="127.0.0.1:1")],
        capacity=pool_pb2.Capacity(
            concurrent_requests=4, adapters=4, adapter_rank=8, kv_tokens=1000, queued_requests=9
        ),
        engine_sha256=ENGINE_SHA256,
        adapter_dtype="float16",
        adapter_config_columns=4,
    )
    await store.write(
        [],
        {
            etcd_keys.model_key("m"): model.SerializeToString(),
            etcd_keys.pool_key("p"): pool.SerializeToString(),
            etcd_keys.ordinal_counter_key(): str(tenants).encode(),
        },
    )
    ordinals = iter(range(1, tenants + 1))
    done = 0

    async def write_some() -> None:
        nonlocal done
        for ordinal in ordinals:
            await store.write([], tenant_puts(keys, ordinal, shape))
            done += 1
            if done % 500 == 0:
                progress(done, tenants)

    async with asyncio.TaskGroup() as group:
        for _ in range(WRITERS):
            group.create_task(write_some())


def tenant_puts(keys: TenantKeys, ordinal: int, shape: Shape) -> dict[str, bytes]:
    """Everything one tenant has in etcd."""
    tenant_uid, tenant_id = f"{ordinal:016x}", f"tenant-{ordinal}"
    key, wrapped = keys.create(tenant_uid)
    config = tenant_config(ordinal, shape)
    stored = stored_pb2.StoredTenant(
        tenant_id=tenant_id,
        tenant_uid=tenant_uid,
        ordinal=ordinal,
        state=tenant_pb2.TENANT_STATE_ACTIVE,
        config_version=1,
        wrapped_key=wrapped,
    )
    seal_in_force(stored, config, key)
    puts = {
        etcd_keys.tenant_key(tenant_uid): stored.SerializeToString(),
        etcd_keys.tenant_name_key(tenant_id): tenant_uid.encode(),
    }
    for _ in range(shape.keys):
        key_id = secrets.token_hex(8)
        record = credential_pb2.Key(
            name=f"tenants/{tenant_id}/keys/{key_id}",
            state=credential_pb2.KEY_STATE_ACTIVE,
            expire_time=Timestamp(seconds=_FAR_FUTURE_SECONDS),
        )
        puts[etcd_keys.credential_key(key_id)] = stored_pb2.StoredCredential(
            key=record, tenant_uid=tenant_uid
        ).SerializeToString()
    for number in range(1, shape.adapters + 1):
        puts[etcd_keys.adapter_key(tenant_uid, f"adapter-{number}")] = _adapter(tenant_uid, ordinal, number)
    return puts


def tenant_config(ordinal: int, shape: Shape) -> tenant_pb2.TenantConfig:
    """A config whose prompt and patterns are like no other tenant's."""
    prompt = f"You answer for tenant {ordinal}. ".ljust(shape.prompt_bytes, "x")
    rules = [
        tenant_pb2.GuardrailRule(
            rule_id=f"rule-{number}",
            action=tenant_pb2.GUARDRAIL_ACTION_REDACT,
            pattern=rf"\bsecret-{ordinal}-{number}-\d+\b",
        )
        for number in range(shape.patterns)
    ]
    alias = tenant_pb2.ModelAlias(
        alias="assistant", base_model="models/m", adapter="adapter-1" if shape.adapters else ""
    )
    return tenant_pb2.TenantConfig(
        models=[alias], system_prompt=prompt[: shape.prompt_bytes], guardrails=rules
    )


def adapter_version(ordinal: int, number: int) -> adapter_pb2.AdapterVersion:
    """A registered version whose rendition has a digest of its own; its artifact is nowhere."""
    rendition = adapter_pb2.Rendition(
        dialect=adapter_pb2.DIALECT_TRTLLM_ENGINE,
        lora_id=ordinal << 40 | number,
        sha256=f"{ordinal:032x}{number:032x}",
        artifact_sha256="d" * 64,
        size_bytes=1 << 20,
        dtype="float16",
        config_columns=4,
        engine_sha256=ENGINE_SHA256,
    )
    return adapter_pb2.AdapterVersion(
        version=1, base_model="models/m", source_sha256=f"{number:064x}", rank=8, renditions=[rendition]
    )


def _adapter(tenant_uid: str, ordinal: int, number: int) -> bytes:
    return stored_pb2.StoredAdapter(
        adapter_id=f"adapter-{number}", tenant_uid=tenant_uid, versions=[adapter_version(ordinal, number)]
    ).SerializeToString()
