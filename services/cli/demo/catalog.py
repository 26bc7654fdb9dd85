"""Registers what the demo's tenants share, through the admin RPCs: the base model, and the pool of the local Triton."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

from tenantry.config.v1.adapter_pb2 import DIALECT_TRTLLM_ENGINE
from tenantry.config.v1.pool_pb2 import Architecture, BaseModel, Capacity, Endpoint, Pool

from services.cli.clients.admin_catalog import CatalogClient
from services.common.artifacts import DirectoryArtifactStore
from services.common.command_errors import CommandError
from services.common.durable_files import replace_file
from services.common.errors import NotFoundError
from services.local.layout import StateLayout
from triton_models.cpu_engine.launch import MODEL_NAME as SERVER_MODEL
from triton_models.cpu_engine.preparation import PreparedModel

MODEL, POOL = "smollm2", "local"


async def provision_catalog(
    catalog: CatalogClient, model: PreparedModel, triton_target: str, layout: StateLayout
) -> None:
    """Register what is missing, and give the pool the address that Triton has in this run.

    Raises:
        CommandError: the state was made with another model.
        Error: the config service refused.
    """
    await _base_model(catalog, model, layout)
    await _pool(catalog, model, triton_target, layout)


async def _base_model(catalog: CatalogClient, model: PreparedModel, layout: StateLayout) -> None:
    store = DirectoryArtifactStore(layout.artifact_dir)
    for path in (model.tokenizer_path, model.chat_template_path):
        await asyncio.to_thread(store.put, await asyncio.to_thread(path.read_bytes))
    wanted = _described(model)
    try:
        found = await catalog.get_base_model(MODEL)
    except NotFoundError:
        await catalog.create_base_model(MODEL, wanted)
        return
    found.name = found.etag = ""
    if found != wanted:
        # Every answer names the model's digests, and a base model never changes.
        raise CommandError(
            f"the base model {MODEL} in {layout.state_dir} is not the one this version of tenantry runs.",
            "Give --state-dir another directory, or remove this one with all its tenants.",
        )


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


async def _pool(catalog: CatalogClient, model: PreparedModel, target: str, layout: StateLayout) -> None:
    try:
        pool = await catalog.get_pool(POOL)
    except NotFoundError:
        await _note(layout, [target])
        await catalog.create_pool(POOL, _new_pool(model, target))
        return
    earlier = await asyncio.to_thread(_noted, layout)
    before = Pool()
    before.CopyFrom(pool)
    move_endpoint(pool, earlier or {endpoint.target for endpoint in pool.endpoints[:1]}, target)
    pool.engine_sha256 = model.weights_sha256
    if pool != before:
        # Note both addresses, until it is certain which one the pool has.
        await _note(layout, [*earlier, target])
        await catalog.update_pool(pool)
    await _note(layout, [target])


def _new_pool(model: PreparedModel, target: str) -> Pool:
    return Pool(
        base_model=f"models/{MODEL}",
        dialect=DIALECT_TRTLLM_ENGINE,
        server_model=SERVER_MODEL,
        endpoints=[Endpoint(target=target)],
        capacity=Capacity(
            concurrent_requests=16,
            adapters=8,
            adapter_rank=64,
            kv_tokens=512 * 32,
            queued_requests=256,
            kv_block_tokens=32,
        ),
        engine_sha256=model.weights_sha256,
        adapter_dtype="float16",
        adapter_config_columns=4,
    )


def move_endpoint(pool: Pool, earlier: Collection[str], target: str) -> None:
    """Replace the earlier addresses of the local Triton by its present one; an operator's endpoints stay.

    Args:
        pool: changed in place.
        earlier: the local Triton's addresses in earlier runs.
        target: its present address.
    """
    kept = [
        endpoint.target
        for endpoint in pool.endpoints
        if endpoint.target != target and endpoint.target not in earlier
    ]
    del pool.endpoints[:]
    for wanted in (target, *kept):
        pool.endpoints.add(target=wanted)


async def _note(layout: StateLayout, targets: Sequence[str]) -> None:
    await asyncio.to_thread(replace_file, layout.triton_targets_path, "\n".join(targets).encode())


def _noted(layout: StateLayout) -> set[str]:
    try:
        return set(layout.triton_targets_path.read_text("utf-8").split())
    except OSError:
        return set()
