"""Registers, gets, lists and deletes base models, which all tenants share."""

from __future__ import annotations

from tenantry.config.v1 import config_admin_service_pb2 as pb
from tenantry.config.v1 import pool_pb2

from services.common.artifacts import ArtifactStore
from services.common.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    Reason,
)
from services.config.admin.edits import Context, Edits
from services.config.admin.page_tokens import page
from services.config.etcd import keys as etcd_keys
from services.config.etcd.store import Expect, Unchanged
from services.config.intents.change import Change
from services.config.rules.catalog_rules import model_violations
from services.config.rules.free_text import check_reason
from services.config.rules.model_text import text_violations
from services.config.rules.model_users import users_of
from services.config.state.etag import require_etag
from services.config.state.operators import Operator
from services.config.state.records import ModelRecord
from services.config.state.resources import listed, model_resource, parse_name, require_id


class ModelAdmin:
    """The admin RPCs of base models."""

    def __init__(self, edits: Edits, artifacts: ArtifactStore) -> None:
        self._edits = edits
        self._artifacts = artifacts

    async def create(self, request: pb.CreateBaseModelRequest, context: Context) -> pool_pb2.BaseModel:
        """Register a base model; its artifacts have to be in the store, and usable by routers."""
        operator = self._edits.operator(context, request)
        operator.require_platform()
        model_id = require_id(request.base_model_id, "base_model_id")
        wrong = model_violations(request.base_model) + check_reason(request.reason)
        wrong += await self._edits.checks.run(
            operator, lambda: text_violations(request.base_model, self._artifacts)
        )
        if wrong:
            raise InvalidArgumentError(wrong)
        model = pool_pb2.BaseModel()
        model.CopyFrom(request.base_model)
        model.name, model.etag = f"models/{model_id}", ""
        if self._edits.state.model(model.name) is not None:
            raise AlreadyExistsError("a base model of this name exists")
        if request.validate_only:
            return model
        key = etcd_keys.model_key(model_id)
        change = Change(operator, "CreateBaseModel", model.name, request.reason)
        await self._edits.write(change, [Expect(key, 0)], {key: model.SerializeToString()})
        return model_resource(self._record(model.name))

    async def get(self, request: pb.GetBaseModelRequest, context: Context) -> pool_pb2.BaseModel:
        """Get a base model."""
        self._edits.operator(context, request)
        parse_name(request.name, "models/{model}", field="name")
        return model_resource(self._record(request.name))

    async def list_page(
        self, request: pb.ListBaseModelsRequest, context: Context
    ) -> pb.ListBaseModelsResponse:
        """List base models."""
        self._edits.operator(context, request)
        found = [model_resource(r) for r in self._edits.state.under("models/") if isinstance(r, ModelRecord)]
        chosen, token = page(found, lambda model: model.name, request.page_size, request.page_token, "models")
        return pb.ListBaseModelsResponse(base_models=chosen, next_page_token=token)

    async def delete(
        self, request: pb.DeleteBaseModelRequest, context: Context
    ) -> pb.DeleteBaseModelResponse:
        """Delete a base model that no tenant, adapter or pool refers to."""
        operator = self._edits.operator(context, request)
        operator.require_platform()
        _, (model_id,) = parse_name(request.name, "models/{model}", field="name")
        wrong = check_reason(request.reason)
        if wrong:
            raise InvalidArgumentError(wrong)
        # Other writes of tenants, adapters and pools are frequent; only those that name the model matter.
        revision = await self._edits.retrying(lambda: self._delete_once(request, operator, model_id))
        return pb.DeleteBaseModelResponse(revision=revision)

    async def _delete_once(
        self, request: pb.DeleteBaseModelRequest, operator: Operator, model_id: str
    ) -> int:
        state = self._edits.state
        record = self._record(request.name)
        if request.etag:
            require_etag(request.etag, record.mod_revision, "etag")
        users = users_of(state, request.name)
        if users:
            raise FailedPreconditionError(
                f"the base model is used by {listed(users)}", reason=Reason.RESOURCE_IN_USE
            )
        if request.validate_only:
            return state.revision
        key = etcd_keys.model_key(model_id)
        change = Change(operator, "DeleteBaseModel", request.name, request.reason)
        unused = [
            Unchanged(prefix, state.revision)
            for prefix in (etcd_keys.TENANTS, etcd_keys.ADAPTERS, etcd_keys.POOLS)
        ]
        return await self._edits.write(
            change,
            [Expect(key, record.mod_revision), *unused],
            {etcd_keys.deleted_model_key(model_id): operator.key_id.encode()},
            [key],
        )

    def _record(self, name: str) -> ModelRecord:
        record = self._edits.state.model(name)
        if record is None:
            raise NotFoundError("no such base model")
        return record
