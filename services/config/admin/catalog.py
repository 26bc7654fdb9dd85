"""Base models and pools: what platform-admins register for everybody."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from tenantry.config.v1 import config_admin_service_pb2 as pb
from tenantry.config.v1 import pool_pb2

from services.common.artifacts import ArtifactError, ArtifactStore
from services.common.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    FieldViolation,
    InvalidArgumentError,
    NotFoundError,
)
from services.config import layout
from services.config.admin.edits import Context, Edits
from services.config.admin.tenant_config import still_there, surroundings
from services.config.catalog_rules import is_sha256, model_violations, pool_violations
from services.config.etag import require_etag
from services.config.operator_log import Change
from services.config.page_tokens import page
from services.config.resources import model_resource, parse_name, pool_resource, require_id
from services.config.state import ModelRecord, PoolRecord, State, TenantRecord
from services.config.store import Expect, Unchanged
from services.config.update_mask import merged
from services.config.validation import validate_config

_POOL_FIXED = frozenset({"name", "etag"})


class CatalogAdmin:
    """The base models' and pools' part of the admin service."""

    def __init__(self, edits: Edits, artifacts: ArtifactStore) -> None:
        self._edits = edits
        self._artifacts = artifacts

    async def create_model(self, request: pb.CreateBaseModelRequest, context: Context) -> pool_pb2.BaseModel:
        """Register a base model; its artifacts have to be in the store."""
        operator = self._edits.operator(context, request)
        operator.require_platform()
        model_id = require_id(request.base_model_id, "base_model_id")
        wrong = model_violations(request.base_model) + self._edits.check_reason(request.reason)
        for field in ("tokenizer_sha256", "chat_template_sha256"):
            digest = getattr(request.base_model, field)
            if is_sha256(digest) and not await self._present(digest):
                wrong.append(FieldViolation(f"base_model.{field}", "is not in the artifact store"))
        if wrong:
            raise InvalidArgumentError(wrong)
        model = pool_pb2.BaseModel()
        model.CopyFrom(request.base_model)
        model.name, model.etag = f"models/{model_id}", ""
        if self._edits.state.model(model.name) is not None:
            raise AlreadyExistsError("a base model of this name exists")
        if not request.validate_only:
            key = layout.model_key(model_id)
            change = Change(operator, "CreateBaseModel", model.name, request.reason)
            await self._edits.write(change, [Expect(key, 0)], {key: model.SerializeToString()})
        return self._model(model.name) if not request.validate_only else model

    async def get_model(self, request: pb.GetBaseModelRequest, context: Context) -> pool_pb2.BaseModel:
        """Get a base model."""
        self._edits.operator(context, request)
        parse_name(request.name, "models/{model}", field="name")
        return self._model(request.name)

    async def list_models(
        self, request: pb.ListBaseModelsRequest, context: Context
    ) -> pb.ListBaseModelsResponse:
        """List base models."""
        self._edits.operator(context, request)
        found = [model_resource(r) for r in self._edits.state.under("models/") if isinstance(r, ModelRecord)]
        chosen, token = page(found, lambda model: model.name, request.page_size, request.page_token, "models")
        return pb.ListBaseModelsResponse(base_models=chosen, next_page_token=token)

    async def create_pool(self, request: pb.CreatePoolRequest, context: Context) -> pool_pb2.Pool:
        """Register a pool."""
        operator = self._edits.operator(context, request)
        operator.require_platform()
        pool_id = require_id(request.pool_id, "pool_id")
        self._require_good(request.pool, request.reason)
        pool = pool_pb2.Pool()
        pool.CopyFrom(request.pool)
        pool.name, pool.etag = f"pools/{pool_id}", ""
        if self._edits.state.pool(pool.name) is not None:
            raise AlreadyExistsError("a pool of this name exists")
        if request.validate_only:
            return pool
        key = layout.pool_key(pool_id)
        change = Change(operator, "CreatePool", pool.name, request.reason)
        conditions = [Expect(key, 0), *self._owner_still_there(pool)]
        await self._edits.write(change, conditions, {key: pool.SerializeToString()})
        return pool_resource(self._pool(pool.name))

    async def get_pool(self, request: pb.GetPoolRequest, context: Context) -> pool_pb2.Pool:
        """Get a pool."""
        self._edits.operator(context, request).require_platform()
        parse_name(request.name, "pools/{pool}", field="name")
        return pool_resource(self._pool(request.name))

    async def list_pools(self, request: pb.ListPoolsRequest, context: Context) -> pb.ListPoolsResponse:
        """List pools."""
        self._edits.operator(context, request).require_platform()
        found = [pool_resource(r) for r in self._edits.state.under("pools/") if isinstance(r, PoolRecord)]
        chosen, token = page(found, lambda pool: pool.name, request.page_size, request.page_token, "pools")
        return pb.ListPoolsResponse(pools=chosen, next_page_token=token)

    async def update_pool(self, request: pb.UpdatePoolRequest, context: Context) -> pool_pb2.Pool:
        """Update a pool; a tenant whose config names it has to fit it afterwards."""
        operator = self._edits.operator(context, request)
        operator.require_platform()
        parse_name(request.pool.name, "pools/{pool}", field="pool.name")
        state = self._edits.state
        record = self._pool(request.pool.name)
        require_etag(request.pool.etag, record.mod_revision, "pool.etag")
        pool = merged(record.pool, request.pool, request.update_mask.paths, _POOL_FIXED)
        self._require_good(pool, request.reason)
        key = layout.pool_key(pool.name.removeprefix("pools/"))
        conditions: list[Expect | Unchanged] = [Expect(key, record.mod_revision)]
        conditions += self._owner_still_there(pool)
        if (pool.base_model, pool.dedicated_to) != (record.pool.base_model, record.pool.dedicated_to):
            _require_tenants_fit(state, pool)
            conditions.append(Unchanged(layout.TENANTS, state.revision))
        if request.validate_only or pool == record.pool:
            return pool_resource(PoolRecord(pool, record.mod_revision))
        change = Change(operator, "UpdatePool", pool.name, request.reason)
        await self._edits.write(change, conditions, {key: pool.SerializeToString()})
        return pool_resource(self._pool(pool.name))

    def _model(self, name: str) -> pool_pb2.BaseModel:
        record = self._edits.state.model(name)
        if record is None:
            raise NotFoundError("no such base model")
        return model_resource(record)

    def _pool(self, name: str) -> PoolRecord:
        record = self._edits.state.pool(name)
        if record is None:
            raise NotFoundError("no such pool")
        return record

    def _owner_still_there(self, pool: pool_pb2.Pool) -> list[Expect]:
        """Routers refuse a pool that outlived its tenant; and the next tenant of that name would get it."""
        owner = self._edits.state.tenant(pool.dedicated_to.removeprefix("tenants/"))
        return [still_there(self._edits.state, owner.stored.tenant_uid)] if owner else []

    async def _present(self, digest: str) -> bool:
        try:
            await asyncio.to_thread(self._artifacts.read, digest)
        except ArtifactError:
            return False
        return True

    def _require_good(self, pool: pool_pb2.Pool, reason: str) -> None:
        wrong = pool_violations(pool) + self._edits.check_reason(reason)
        if self._edits.state.model(pool.base_model) is None:
            wrong.append(FieldViolation("pool.base_model", "names no base model"))
        if pool.dedicated_to:
            _, (tenant_id,) = parse_name(pool.dedicated_to, "tenants/{tenant}", field="pool.dedicated_to")
            if self._edits.state.tenant(tenant_id) is None:
                wrong.append(FieldViolation("pool.dedicated_to", "names no tenant"))
        if wrong:
            raise InvalidArgumentError(wrong)


def _require_tenants_fit(state: State, pool: pool_pb2.Pool) -> None:
    placed = {pool.name: (pool.base_model, pool.dedicated_to)}
    for record in state.under("tenants/"):
        if not isinstance(record, TenantRecord) or record.config.pool != pool.name:
            continue
        around = surroundings(state, record.name, record.stored.tenant_uid)
        if validate_config(record.config, replace(around, pools=placed)):
            raise FailedPreconditionError("a tenant's config names this pool and would not fit it any more")
