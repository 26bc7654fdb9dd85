"""A config service that keeps everything in dicts: keys, adapters, models and pools beside the tenants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tenantry.config.v1 import config_admin_service_pb2 as admin
from tenantry.config.v1.adapter_pb2 import Adapter, AdapterVersion
from tenantry.config.v1.credential_pb2 import Key, KeyState
from tenantry.config.v1.pool_pb2 import BaseModel, Pool

from tests.fakes.cli_tenants import NOW_SECONDS, FakeTenants


@dataclass
class FakeAdmin(FakeTenants):
    """The whole service."""

    keys: dict[str, Key] = field(default_factory=dict)
    adapters: dict[str, Adapter] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    models: dict[str, BaseModel] = field(default_factory=dict)
    pools: dict[str, Pool] = field(default_factory=dict)
    secret_of: Callable[[Key], str] = lambda _key: "the.new.secret"

    def CreateKey(self, request, context):
        self._enter(context)
        key = Key()
        key.CopyFrom(request.key)
        key.name, key.state = f"{request.parent}/keys/k{len(self.keys) + 1}", KeyState.KEY_STATE_ACTIVE
        key.create_time.seconds = NOW_SECONDS
        key.creator, key.reason = "operators/ada", request.reason
        if not key.HasField("expire_time"):
            key.expire_time.seconds = NOW_SECONDS + 90 * 86_400
        self.keys[key.name] = key
        self._note_change("CreateKey", key, request.reason)
        return admin.CreateKeyResponse(key=key, secret=self.secret_of(key))

    def _note_change(self, method: str, key: Key, reason: str) -> None:
        self.revision += 1
        key.revision = self.revision
        self.changes.append((method, key.name, reason))

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
        self._note_change("RevokeKey", key, request.reason)
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
        self.changes.append(("RegisterAdapter", name, header.reason))
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
        self.changes.append(("CreateBaseModel", request.base_model.name, request.reason))
        return request.base_model

    def GetBaseModel(self, request, context):
        self._enter(context)
        return self._found(self.models, request.name, context)

    def ListBaseModels(self, request, context):
        self._enter(context)
        return admin.ListBaseModelsResponse(base_models=list(self.models.values()))

    def DeleteBaseModel(self, request, context):
        self._enter(context)
        self._found(self.models, request.name, context)
        del self.models[request.name]
        self.revision += 1
        self.changes.append(("DeleteBaseModel", request.name, request.reason))
        return admin.DeleteBaseModelResponse(revision=self.revision)

    def CreatePool(self, request, context):
        self._enter(context)
        request.pool.name = f"pools/{request.pool_id}"
        self.pools[request.pool.name] = request.pool
        self.changes.append(("CreatePool", request.pool.name, request.reason))
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
