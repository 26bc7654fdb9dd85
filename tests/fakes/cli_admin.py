"""A config service that keeps everything in dicts, and how the fakes refuse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

import grpc
from grpc_status import rpc_status
from tenantry.config.v1 import config_admin_service_pb2 as admin
from tenantry.config.v1.adapter_pb2 import Adapter, AdapterVersion
from tenantry.config.v1.config_admin_service_pb2_grpc import ConfigAdminServiceServicer
from tenantry.config.v1.credential_pb2 import Key, KeyState
from tenantry.config.v1.pool_pb2 import BaseModel, Pool
from tenantry.config.v1.tenant_pb2 import Tenant, TenantState

from services.common.errors import AbortedError, Error, NotFoundError, UnauthenticatedError
from services.common.rpc_status import to_status

TENANT_KEY, OPERATOR_KEY, GRANT = "tenant-key", "operator-key", "grant"
NOW_SECONDS = 1_795_510_800


def abort(context: grpc.ServicerContext, error: Error) -> NoReturn:
    """End the call as the services do."""
    context.abort_with_status(_grpc_status(error))
    raise AssertionError("abort returned")


def _grpc_status(error: Error) -> Any:
    return rpc_status.to_status(to_status(error))


def authenticate(context: grpc.ServicerContext, key: str) -> None:
    if ("authorization", f"Bearer {key}") not in context.invocation_metadata():
        abort(context, UnauthenticatedError())


@dataclass
class FakeAdmin(ConfigAdminServiceServicer):
    """Keeps tenants, keys, adapters, models and pools in dicts, two a page."""

    tenants: dict[str, Tenant] = field(default_factory=dict)
    keys: dict[str, Key] = field(default_factory=dict)
    adapters: dict[str, Adapter] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    models: dict[str, BaseModel] = field(default_factory=dict)
    pools: dict[str, Pool] = field(default_factory=dict)
    updates: list[admin.UpdateTenantRequest] = field(default_factory=list)
    error: Error | None = None
    before_update: Callable[[], None] = lambda: None

    def _enter(self, context) -> None:
        authenticate(context, OPERATOR_KEY)
        if self.error:
            abort(context, self.error)

    def _found(self, kept, name, context):
        if name not in kept:
            abort(context, NotFoundError("no such resource"))
        return kept[name]

    def add_tenant(self, tenant_id: str, **fields: Any) -> Tenant:
        tenant = Tenant(name=f"tenants/{tenant_id}", tenant_uid=f"uid-{tenant_id}", **fields)
        tenant.state, tenant.config_version, tenant.etag = TenantState.TENANT_STATE_ACTIVE, 1, '"1"'
        tenant.config_sha256 = "ab" * 32
        tenant.create_time.seconds = tenant.update_time.seconds = NOW_SECONDS
        if not tenant.config.models:
            tenant.config.models.add(alias="smollm2", base_model="models/smollm2")
        self.tenants[tenant.name] = tenant
        return tenant

    def CreateTenant(self, request, context):
        self._enter(context)
        tenant = self.add_tenant(
            request.tenant_id, config=request.tenant.config, display_name=request.tenant.display_name
        )
        if request.validate_only:
            del self.tenants[tenant.name]
        return tenant

    def GetTenant(self, request, context):
        self._enter(context)
        return self._found(self.tenants, request.name, context)

    def ListTenants(self, request, context):
        self._enter(context)
        start = int(request.page_token or 0)
        page = [self.tenants[name] for name in sorted(self.tenants)][start : start + 2]
        token = str(start + 2) if start + 2 < len(self.tenants) else ""
        return admin.ListTenantsResponse(tenants=page, next_page_token=token)

    def UpdateTenant(self, request, context):
        self._enter(context)
        self.updates.append(request)
        self.before_update()
        kept = self._found(self.tenants, request.tenant.name, context)
        if request.tenant.etag != kept.etag:
            abort(context, AbortedError("the tenant changed since it was read"))
        updated = Tenant()
        updated.CopyFrom(kept)
        for path in request.update_mask.paths:
            updated.ClearField(path)
            if path == "config":
                updated.config.CopyFrom(request.tenant.config)
            else:
                setattr(updated, path, getattr(request.tenant, path))
        if updated.config != kept.config:
            updated.config_version += 1
        updated.etag = f'"{updated.config_version}"'
        if not request.validate_only:
            self.tenants[updated.name] = updated
        return updated

    def CreateKey(self, request, context):
        self._enter(context)
        key = Key()
        key.CopyFrom(request.key)
        key.name, key.state = f"{request.parent}/keys/k{len(self.keys) + 1}", KeyState.KEY_STATE_ACTIVE
        key.create_time.seconds = NOW_SECONDS
        if not key.HasField("expire_time"):
            key.expire_time.seconds = NOW_SECONDS + 90 * 86_400
        self.keys[key.name] = key
        return admin.CreateKeyResponse(key=key, secret="the.new.secret")

    def ListKeys(self, request, context):
        self._enter(context)
        return admin.ListKeysResponse(
            keys=[key for name, key in self.keys.items() if name.startswith(request.parent + "/")]
        )

    def RevokeKey(self, request, context):
        self._enter(context)
        key = self._found(self.keys, request.name, context)
        key.state = KeyState.KEY_STATE_REVOKED
        key.revoke_time.seconds = NOW_SECONDS
        return key

    def RegisterAdapter(self, request_iterator, context):
        self._enter(context)
        header = next(request_iterator).header
        self.uploads.clear()
        for piece in request_iterator:
            assert len(piece.chunk.data) <= 1 << 20
            self.uploads[piece.chunk.file] = self.uploads.get(piece.chunk.file, b"") + piece.chunk.data
        name = f"{header.parent}/adapters/{header.adapter_id}"
        adapter = self.adapters.setdefault(name, Adapter(name=name))
        adapter.versions.append(
            AdapterVersion(
                version=len(adapter.versions) + 1,
                base_model=header.base_model,
                rank=8,
                source_sha256="cd" * 32,
            )
        )
        adapter.versions[-1].renditions.add(lora_id=(1 << 40) + 1, size_bytes=1_500_000)
        return adapter

    def GetAdapter(self, request, context):
        self._enter(context)
        return self._found(self.adapters, request.name, context)

    def ListAdapters(self, request, context):
        self._enter(context)
        return admin.ListAdaptersResponse(adapters=list(self.adapters.values()))

    def CreateBaseModel(self, request, context):
        self._enter(context)
        request.base_model.name = f"models/{request.base_model_id}"
        self.models[request.base_model.name] = request.base_model
        return request.base_model

    def GetBaseModel(self, request, context):
        self._enter(context)
        return self._found(self.models, request.name, context)

    def ListBaseModels(self, request, context):
        self._enter(context)
        return admin.ListBaseModelsResponse(base_models=list(self.models.values()))

    def CreatePool(self, request, context):
        self._enter(context)
        request.pool.name = f"pools/{request.pool_id}"
        self.pools[request.pool.name] = request.pool
        return request.pool

    def GetPool(self, request, context):
        self._enter(context)
        return self._found(self.pools, request.name, context)

    def ListPools(self, request, context):
        self._enter(context)
        return admin.ListPoolsResponse(pools=list(self.pools.values()))

    def UpdatePool(self, request, context):
        self._enter(context)
        self.pools[request.pool.name] = request.pool
        return request.pool
