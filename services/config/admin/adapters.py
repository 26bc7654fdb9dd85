"""Registers adapter versions; gets and lists adapters."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from tenantry.config.v1 import adapter_pb2, pool_pb2, stored_pb2
from tenantry.config.v1 import config_admin_service_pb2 as pb

from services.common.artifacts import ArtifactStore
from services.common.errors import (
    AbortedError,
    DeadlineExceededError,
    Error,
    FailedPreconditionError,
    FieldViolation,
    InvalidArgumentError,
    NotFoundError,
    Reason,
    ResourceExhaustedError,
)
from services.common.sealed_artifact import artifact_associated_data, seal
from services.config.adapters.peft import WEIGHTS_FILE, PeftAdapter, Shape, parse_peft
from services.config.adapters.peft_config import CONFIG_FILE
from services.config.adapters.trtllm_rendition import RenderedAdapter, render
from services.config.admin.edits import Context, Edits
from services.config.admin.page_tokens import page
from services.config.admin.tenant_config import find_tenant, model_still_there, still_there
from services.config.admin.uploads import Pieces, UploadPlaces, drain, receive_files, receive_header
from services.config.etcd import keys as etcd_keys
from services.config.etcd.store import Expect, Unchanged
from services.config.intents.change import Change
from services.config.rules.catalog_facts import no_base_model
from services.config.rules.free_text import check_reason
from services.config.rules.known_fields import unknown_violations
from services.config.state.allocation import MAX_SERIAL, lora_id, next_number
from services.config.state.config_state import ConfigState
from services.config.state.operators import Operator
from services.config.state.records import AdapterRecord, PoolRecord, TenantRecord
from services.config.state.resources import adapter_resource, parse_name, require_id

MAX_VERSIONS = 500


@dataclass(frozen=True, slots=True)
class _Target:
    """A form in which some pools take adapters."""

    engine_sha256: str
    dtype: str
    columns: int
    max_rank: int


class AdapterAdmin:
    """The admin RPCs of adapters."""

    def __init__(self, edits: Edits, artifacts: ArtifactStore) -> None:
        self._edits = edits
        self._artifacts = artifacts
        self._places = UploadPlaces()
        # Rendering holds two more copies of the upload in memory.
        self._rendering = asyncio.Semaphore(1)

    async def register(self, pieces: Pieces, context: Context) -> adapter_pb2.Adapter:
        """Register an adapter version: rendered, sealed and stored before its record is written."""
        # Callers without a key must not occupy an upload place.
        operator = self._edits.operator(context)
        try:
            header = await receive_header(pieces)
            tenant = find_tenant(self._edits.state, operator, header.parent, "header.parent")
            require_id(header.adapter_id, "header.adapter_id")
            shape, targets = self._base_model(header, tenant.name)
            with self._places.taken(tenant.stored.tenant_uid):
                files = await receive_files(pieces)
                async with self._rendering:
                    adapter, rendered = await asyncio.to_thread(_render, files, shape, targets)
                return await self._registered(operator, header, tenant, files, adapter, rendered)
        except DeadlineExceededError:
            raise
        except Error:
            await drain(pieces)
            raise

    async def _registered(
        self,
        operator: Operator,
        header: pb.AdapterHeader,
        tenant: TenantRecord,
        files: Mapping[str, bytes],
        adapter: PeftAdapter,
        rendered: list[tuple[_Target, RenderedAdapter]],
    ) -> adapter_pb2.Adapter:
        adapter_id = header.adapter_id
        version = adapter_pb2.AdapterVersion(
            base_model=header.base_model,
            source_sha256=hashlib.sha256(files[WEIGHTS_FILE]).hexdigest(),
            rank=adapter.rank,
            create_time=self._edits.now(),
        )
        if header.validate_only:
            record = self._edits.state.adapter(tenant.stored.tenant_uid, adapter_id)
            draft = _with_version(record, tenant, adapter_id, version)
            return adapter_resource(AdapterRecord(draft, 0), tenant.stored.tenant_id)
        name = f"{tenant.name}/adapters/{adapter_id}"
        change = Change(
            operator, "RegisterAdapter", name, header.reason, {"source_sha256": version.source_sha256}
        )
        await self._store(change, tenant, adapter_id, version, rendered)
        written = self._edits.state.adapter(tenant.stored.tenant_uid, adapter_id)
        if written is None:
            raise NotFoundError("no such adapter", reason=Reason.ADAPTER_NOT_FOUND)
        return adapter_resource(written, tenant.stored.tenant_id)

    def _base_model(self, header: pb.AdapterHeader, tenant_name: str) -> tuple[Shape, list[_Target]]:
        model = self._edits.state.model(header.base_model)
        wrong = unknown_violations(header, "header") + check_reason(header.reason, "header.reason")
        if model is None:
            wrong.append(FieldViolation("header.base_model", no_base_model(self._edits.state)))
        if model is None or wrong:
            raise InvalidArgumentError(wrong)
        targets = _targets(self._edits.state, header.base_model, tenant_name)
        if not targets:
            raise FailedPreconditionError("no pool serves this base model yet", reason=Reason.RESOURCE_IN_USE)
        return _shape(model.model.architecture), targets

    async def get(self, request: pb.GetAdapterRequest, context: Context) -> adapter_pb2.Adapter:
        """Get an adapter."""
        operator = self._edits.operator(context, request)
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
        operator = self._edits.operator(context, request)
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
        change: Change,
        tenant: TenantRecord,
        adapter_id: str,
        version: adapter_pb2.AdapterVersion,
        rendered: list[tuple[_Target, RenderedAdapter]],
    ) -> None:
        """Store the sealed tensors, then write the record; concurrent registrations compete for serials only."""
        tenant_uid = tenant.stored.tenant_uid
        for target, blob in rendered:
            sealed = seal(tenant.key.artifact, artifact_associated_data(tenant_uid, blob.sha256), blob.data)
            version.renditions.append(
                adapter_pb2.Rendition(
                    dialect=adapter_pb2.DIALECT_TRTLLM_ENGINE,
                    sha256=blob.sha256,
                    artifact_sha256=await asyncio.to_thread(self._artifacts.put, sealed),
                    size_bytes=len(blob.data),
                    dtype=target.dtype,
                    config_columns=target.columns,
                    engine_sha256=target.engine_sha256,
                )
            )
        targets = [target for target, _ in rendered]
        await self._edits.retrying(lambda: self._write(change, tenant, adapter_id, version, targets))

    async def _write(
        self,
        change: Change,
        tenant: TenantRecord,
        adapter_id: str,
        version: adapter_pb2.AdapterVersion,
        targets: list[_Target],
    ) -> None:
        tenant_uid, state = tenant.stored.tenant_uid, self._edits.state
        if _targets(state, version.base_model, tenant.name) != targets:
            raise AbortedError("the pools changed meanwhile: register again")
        counter_key, etcd_key = (
            etcd_keys.serial_counter_key(tenant_uid),
            etcd_keys.adapter_key(tenant_uid, adapter_id),
        )
        counter = await self._edits.store.get(counter_key)
        epoch = await self._edits.store.get(etcd_keys.epoch_key())
        record = state.adapter(tenant_uid, adapter_id)
        last = counter.value if counter else None
        for rendition in version.renditions:
            serial = next_number(last, MAX_SERIAL, "adapter serial")
            last = str(serial).encode()
            rendition.lora_id = lora_id(tenant.stored.ordinal, int(epoch.value) if epoch else 0, serial)
        stored = _with_version(record, tenant, adapter_id, version)
        await self._edits.write(
            change,
            [
                still_there(state, tenant_uid),
                model_still_there(state, version.base_model, "header.base_model"),
                Unchanged(etcd_keys.POOLS, state.revision),
                Expect(etcd_key, record.mod_revision if record else 0),
                Expect(counter_key, counter.mod_revision if counter else 0),
                Expect(etcd_keys.epoch_key(), epoch.mod_revision if epoch else 0),
            ],
            {etcd_key: stored.SerializeToString(), counter_key: last or b""},
        )


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


def _targets(state: ConfigState, base_model: str, tenant_name: str) -> list[_Target]:
    """Every distinct form that this tenant's possible pools of a base model take, in a fixed order."""
    ranks: dict[tuple[str, str, int], int] = {}
    for record in state.under("pools/"):
        if not isinstance(record, PoolRecord) or record.pool.base_model != base_model:
            continue
        pool = record.pool
        # Another tenant must not learn even the digest of its engine.
        if pool.dedicated_to and pool.dedicated_to != tenant_name:
            continue
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
    if len(stored.versions) >= MAX_VERSIONS:
        raise ResourceExhaustedError(
            f"the adapter has {MAX_VERSIONS} versions, the most there may be", reason=Reason.IDS_EXHAUSTED
        )
    version.version = len(stored.versions) + 1
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
