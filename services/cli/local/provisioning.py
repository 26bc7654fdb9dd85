"""The demo: a base model, a pool, three tenants with a key each. Through the admin RPCs, like any operator's work.

Idempotent: a second run finds what the first one made and changes only where Triton is.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from tenantry.config.v1.adapter_pb2 import DIALECT_TRTLLM_ENGINE
from tenantry.config.v1.pool_pb2 import Architecture, BaseModel, Capacity, Endpoint, Pool
from tenantry.config.v1.tenant_pb2 import ModelAlias, TenantConfig

from services.cli.clients.admin import AdminClient
from services.cli.errors import CommandError
from services.cli.private_files import write_private
from services.common.artifacts import DirectoryArtifactStore
from services.common.errors import NotFoundError
from triton_models.cpu_engine.launch import MODEL_NAME as SERVER_MODEL
from triton_models.cpu_engine.preparation import PreparedModel

MODEL, POOL, ALIAS = "smollm2", "local", "assistant"
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True, slots=True)
class DemoTenant:
    """A tenant of the demo; no adapter means the bare base model."""

    tenant_id: str
    display_name: str
    adapter: str = ""


DEMO_TENANTS = (
    DemoTenant("acme", "Acme"),
    DemoTenant("globex", "Globex", "pirate"),
    DemoTenant("initech", "Initech", "butler"),
)


def demo_adapters_dir() -> Path:
    """The adapters that come with a checkout.

    Raises:
        CommandError: this is no checkout.
    """
    folder = Path(__file__).parents[3] / "demo_adapters"
    if not folder.is_dir():
        raise CommandError(f"the demo's adapters are not at {folder}.", "Run `tenantry up` in a checkout.")
    return folder


async def provision(
    admin: AdminClient, model: PreparedModel, triton_target: str, artifact_dir: Path, keys_dir: Path
) -> dict[str, Path]:
    """Make what is missing; returns each tenant's key file.

    Raises:
        Error: the config service refused.
    """
    await _base_model(admin, model, artifact_dir)
    await _pool(admin, model, triton_target)
    return {tenant.tenant_id: await _tenant(admin, tenant, keys_dir) for tenant in DEMO_TENANTS}


async def _base_model(admin: AdminClient, model: PreparedModel, artifact_dir: Path) -> None:
    store = DirectoryArtifactStore(artifact_dir)
    for path in (model.tokenizer_path, model.chat_template_path):
        await asyncio.to_thread(store.put, await asyncio.to_thread(path.read_bytes))
    try:
        await admin.catalog.get_base_model(MODEL)
    except NotFoundError:
        await admin.catalog.create_base_model(MODEL, _described(model))


def _described(model: PreparedModel) -> BaseModel:
    card = model.card
    return BaseModel(
        weights_sha256=model.weights_sha256,
        tokenizer_sha256=model.tokenizer_sha256,
        chat_template_sha256=model.chat_template_sha256,
        context_tokens=card.context_tokens,
        end_token_id=card.eos_token_id,
        pad_token_id=card.pad_token_id,
        architecture=Architecture(
            layers=card.layers,
            hidden=card.hidden_size,
            heads=card.attention_heads,
            kv_heads=card.key_value_heads,
            head_dim=card.head_size,
            mlp=card.mlp_width,
            vocabulary=card.vocabulary_size,
        ),
    )


async def _pool(admin: AdminClient, model: PreparedModel, triton_target: str) -> None:
    try:
        pool = await admin.catalog.get_pool(POOL)
    except NotFoundError:
        wanted = Pool(
            base_model=f"models/{MODEL}",
            dialect=DIALECT_TRTLLM_ENGINE,
            server_model=SERVER_MODEL,
            endpoints=[Endpoint(target=triton_target)],
            capacity=Capacity(
                concurrent_requests=16, adapters=8, adapter_rank=64, kv_tokens=512 * 32, queued_requests=256
            ),
            engine_sha256=model.weights_sha256,
            adapter_dtype="float16",
            adapter_config_columns=4,
        )
        await admin.catalog.create_pool(POOL, wanted)
        return
    if [endpoint.target for endpoint in pool.endpoints] != [triton_target]:
        del pool.endpoints[:]
        pool.endpoints.add(target=triton_target)
        await admin.catalog.update_pool(pool)


async def _tenant(admin: AdminClient, tenant: DemoTenant, keys_dir: Path) -> Path:
    alias = ModelAlias(alias=ALIAS, base_model=f"models/{MODEL}")
    key_path = keys_dir / f"{tenant.tenant_id}.key"
    try:
        found = await admin.get_tenant(tenant.tenant_id)
    except NotFoundError:
        # A key of a tenant that had the name before opens nothing.
        await asyncio.to_thread(key_path.unlink, missing_ok=True)
        found = await admin.create_tenant(
            tenant.tenant_id, TenantConfig(models=[alias]), display_name=tenant.display_name
        )
    if tenant.adapter:
        await _adapter(admin, tenant)
        # Only an alias nobody has touched: what an operator has changed since stays.
        if list(found.config.models) == [alias]:
            found.config.models[0].adapter = tenant.adapter
            await admin.update_tenant(found)
    if not key_path.exists():
        answer = await admin.create_key(f"tenants/{tenant.tenant_id}")
        write_private(key_path, answer.secret.encode() + b"\n")
    return key_path


async def _adapter(admin: AdminClient, tenant: DemoTenant) -> None:
    try:
        await admin.catalog.get_adapter(tenant.tenant_id, tenant.adapter)
    except NotFoundError:
        folder = demo_adapters_dir() / tenant.adapter
        files = {name: await asyncio.to_thread((folder / name).read_bytes) for name in _ADAPTER_FILES}
        await admin.catalog.register_adapter(tenant.tenant_id, tenant.adapter, MODEL, files)
