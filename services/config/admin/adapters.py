"""Adapters: register a version, get, list."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from tenantry.config.v1 import adapter_pb2, pool_pb2, stored_pb2
from tenantry.config.v1 import config_admin_service_pb2 as pb

from services.common.artifacts import ArtifactStore
from services.common.errors import (
    FailedPreconditionError,
    FieldViolation,
    InvalidArgumentError,
    NotFoundError,
    Reason,
)
from services.common.sealed_artifact import artifact_associated_data, seal
from services.config import layout
from services.config.adapters.peft import CONFIG_FILE, WEIGHTS_FILE, PeftAdapter, Shape, parse_peft
from services.config.adapters.trtllm_rendition import RenderedAdapter, render
from services.config.admin.edits import Context, Edits
from services.config.admin.tenants import find_tenant
from services.config.allocation import MAX_SERIAL, lora_id, next_number
from services.config.etcd.client import Expect
from services.config.page_tokens import page
from services.config.resources import adapter_resource, parse_name, require_id
from services.config.state import AdapterRecord, PoolRecord, State, TenantRecord

MAX_CONFIG_BYTES = 64 << 10
MAX_WEIGHTS_BYTES = 256 << 20
_LIMITS = {CONFIG_FILE: MAX_CONFIG_BYTES, WEIGHTS_FILE: MAX_WEIGHTS_BYTES}


@dataclass(frozen=True, slots=True)
class _Target:
    """A form of adapter some pools need."""

    engine_sha256: str
    dtype: str
    columns: int
    max_rank: int


class AdapterAdmin:
    """The adapters' part of the admin service."""

    def __init__(self, edits: Edits, artifacts: ArtifactStore) -> None:
        self._edits = edits
        self._artifacts = artifacts
        # Rendering holds two copies of the weights; one at a time bounds the memory uploads can take.
        self._rendering = asyncio.Semaphore(1)

    async def register(
        self, pieces: AsyncIterator[pb.RegisterAdapterRequest], context: Context
    ) -> adapter_pb2.Adapter:
        """Register an adapter version: rendered, sealed and stored before its record is written."""
        operator = self._edits.operator(context)
        first = await anext(pieces, None)
        if first is None or first.WhichOneof("piece") != "header":
            raise InvalidArgumentError([FieldViolation("header", "has to be the first message")])
        header = first.header
        tenant = find_tenant(self._edits.state, operator, header.parent, "header.parent")
        adapter_id = require_id(header.adapter_id, "header.adapter_id")
        model = self._edits.state.model(header.base_model)
        if model is None:
            raise InvalidArgumentError([FieldViolation("header.base_model", "names no base model")])
        targets = _targets(self._edits.state, header.base_model)
        if not targets:
            raise FailedPreconditionError("no pool serves this base model yet", reason=Reason.RESOURCE_IN_USE)
        files = await _collect(pieces)
        async with self._rendering:
            adapter, rendered = await asyncio.to_thread(
                _render, files, _shape(model.model.architecture), targets
            )
        record = self._edits.state.adapter(tenant.stored.tenant_uid, adapter_id)
        version = adapter_pb2.AdapterVersion(
            version=len(record.stored.versions) + 1 if record else 1,
            base_model=header.base_model,
            source_sha256=hashlib.sha256(files[WEIGHTS_FILE]).hexdigest(),
            rank=adapter.rank,
            create_time=self._edits.now(),
        )
        if header.validate_only:
            draft = _with_version(record, tenant, adapter_id, version)
            return adapter_resource(AdapterRecord(draft, 0), tenant.stored.tenant_id)
        await self._store(tenant, adapter_id, version, rendered, record)
        written = self._edits.state.adapter(tenant.stored.tenant_uid, adapter_id)
        assert written is not None
        return adapter_resource(written, tenant.stored.tenant_id)

    async def get(self, request: pb.GetAdapterRequest, context: Context) -> adapter_pb2.Adapter:
        """Get an adapter."""
        operator = self._edits.operator(context)
        _, (tenant_id, adapter_id) = parse_name(
            request.name, "tenants/{tenant}/adapters/{adapter}", field="name"
        )
        tenant = operator.require_tenant(self._edits.state.tenant(tenant_id))
        record = self._edits.state.adapter(tenant.stored.tenant_uid, adapter_id)
        if record is None:
            raise NotFoundError("no such adapter", reason=Reason.ADAPTER_NOT_FOUND)
        return adapter_resource(record, tenant_id)

    async def list_page(self, request: pb.ListAdaptersRequest, context: Context) -> pb.ListAdaptersResponse:
        """List a tenant's adapters."""
        operator = self._edits.operator(context)
        tenant = find_tenant(self._edits.state, operator, request.parent, "parent")
        found = [
            adapter_resource(record, tenant.stored.tenant_id)
            for record in self._edits.state.under(f"adapters/{tenant.stored.tenant_uid}/")
            if isinstance(record, AdapterRecord)
        ]
        chosen, token = page(
            found,
            lambda adapter: adapter.name,
            request.page_size,
            request.page_token,
            "adapters:" + request.parent,
        )
        return pb.ListAdaptersResponse(adapters=chosen, next_page_token=token)

    async def _store(
        self,
        tenant: TenantRecord,
        adapter_id: str,
        version: adapter_pb2.AdapterVersion,
        rendered: list[tuple[_Target, RenderedAdapter]],
        record: AdapterRecord | None,
    ) -> None:
        tenant_uid = tenant.stored.tenant_uid
        counter_key = layout.serial_counter_key(tenant_uid)
        counter = await self._edits.etcd.get(counter_key)
        epoch = await self._edits.etcd.get(layout.epoch_key())
        serial = int(counter.value) if counter else 0
        for target, blob in rendered:
            serial = next_number(str(serial).encode() if serial else None, MAX_SERIAL, "adapter serial")
            sealed = seal(tenant.key.artifact, artifact_associated_data(tenant_uid, blob.sha256), blob.data)
            version.renditions.append(
                adapter_pb2.Rendition(
                    dialect=adapter_pb2.DIALECT_TRTLLM_ENGINE,
                    lora_id=lora_id(tenant.stored.ordinal, int(epoch.value) if epoch else 0, serial),
                    sha256=blob.sha256,
                    artifact_sha256=await asyncio.to_thread(self._artifacts.put, sealed),
                    size_bytes=len(blob.data),
                    dtype=target.dtype,
                    config_columns=target.columns,
                    engine_sha256=target.engine_sha256,
                )
            )
        stored = _with_version(record, tenant, adapter_id, version)
        etcd_key = layout.adapter_key(tenant_uid, adapter_id)
        await self._edits.write(
            [
                Expect(etcd_key, record.mod_revision if record else 0),
                Expect(counter_key, counter.mod_revision if counter else 0),
            ],
            {etcd_key: stored.SerializeToString(), counter_key: str(serial).encode()},
        )


async def _collect(pieces: AsyncIterator[pb.RegisterAdapterRequest]) -> dict[str, bytes]:
    files: dict[str, bytearray] = {}
    async for piece in pieces:
        chunk = piece.chunk
        if piece.WhichOneof("piece") != "chunk" or chunk.file not in _LIMITS:
            raise InvalidArgumentError(
                [FieldViolation("chunk.file", f"is neither {CONFIG_FILE} nor {WEIGHTS_FILE}")]
            )
        data = files.setdefault(chunk.file, bytearray())
        data += chunk.data
        if len(data) > _LIMITS[chunk.file]:
            what = f"has {len(data)} bytes or more, more than {_LIMITS[chunk.file]}"
            raise InvalidArgumentError([FieldViolation(chunk.file, what)])
    missing = [FieldViolation(name, "is missing") for name in _LIMITS if name not in files]
    if missing:
        raise InvalidArgumentError(missing)
    return {name: bytes(data) for name, data in files.items()}


def _render(
    files: dict[str, bytes], shape: Shape, targets: list[_Target]
) -> tuple[PeftAdapter, list[tuple[_Target, RenderedAdapter]]]:
    adapter = parse_peft(files[CONFIG_FILE], files[WEIGHTS_FILE], shape)
    largest = min(target.max_rank for target in targets)
    if adapter.rank > largest:
        raise InvalidArgumentError(
            [FieldViolation(WEIGHTS_FILE, f"has rank {adapter.rank}, more than the pools' {largest}")]
        )
    return adapter, [(target, render(adapter, target.dtype, target.columns)) for target in targets]


def _targets(state: State, base_model: str) -> list[_Target]:
    """Every distinct form the pools of a base model need, in a fixed order."""
    ranks: dict[tuple[str, str, int], int] = {}
    for record in state.under("pools/"):
        if not isinstance(record, PoolRecord) or record.pool.base_model != base_model:
            continue
        pool = record.pool
        if pool.dialect != adapter_pb2.DIALECT_TRTLLM_ENGINE:
            continue
        form = (pool.engine_sha256, pool.adapter_dtype, pool.adapter_config_columns)
        ranks[form] = min(ranks.get(form, pool.capacity.adapter_rank), pool.capacity.adapter_rank)
    return [_Target(*form, rank) for form, rank in sorted(ranks.items())]


def _with_version(
    record: AdapterRecord | None, tenant: TenantRecord, adapter_id: str, version: adapter_pb2.AdapterVersion
) -> stored_pb2.StoredAdapter:
    stored = stored_pb2.StoredAdapter(
        adapter_id=adapter_id, tenant_uid=tenant.stored.tenant_uid, create_time=version.create_time
    )
    if record is not None:
        stored.CopyFrom(record.stored)
    stored.versions.append(version)
    return stored


def _shape(architecture: pool_pb2.Architecture) -> Shape:
    return Shape(
        architecture.layers,
        architecture.hidden,
        architecture.heads,
        architecture.kv_heads,
        architecture.head_dim,
        architecture.mlp,
    )
