"""The operator's calls about the catalogue: adapters, base models, pools."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping

import grpc
from tenantry.config.v1.adapter_pb2 import Adapter
from tenantry.config.v1.config_admin_service_pb2 import (
    AdapterHeader,
    CreateBaseModelRequest,
    CreatePoolRequest,
    DeleteBaseModelRequest,
    FileChunk,
    GetAdapterRequest,
    GetBaseModelRequest,
    GetPoolRequest,
    ListAdaptersRequest,
    ListBaseModelsRequest,
    ListPoolsRequest,
    RegisterAdapterRequest,
    UpdatePoolRequest,
)
from tenantry.config.v1.config_admin_service_pb2_grpc import ConfigAdminServiceStub
from tenantry.config.v1.pool_pb2 import BaseModel, Pool

from services.cli.clients.listener import Caller, bearer, typed_errors
from services.cli.clients.names import adapter_name, model_name, pool_name, tenant_name
from services.cli.clients.paging import collect_pages

CALL_TIMEOUT_SECONDS = 10.0
# The server renders the adapter for every engine before it answers.
REGISTER_TIMEOUT_SECONDS = 120.0
CHUNK_BYTES = 1 << 20


class CatalogClient:
    """The catalogue's calls of `ConfigAdminService`; reached through `AdminClient.catalog`."""

    def __init__(self, channel: grpc.aio.Channel, address: str, key: str) -> None:
        self._stub = ConfigAdminServiceStub(channel)
        self._caller = Caller(address, bearer(key))

    async def register_adapter(
        self,
        tenant: str,
        adapter_id: str,
        base_model: str,
        files: Mapping[str, bytes],
        *,
        reason: str = "",
    ) -> Adapter:
        """Register an adapter, or one more version of it.

        Args:
            tenant: name or id.
            adapter_id: the last part of the adapter's name.
            base_model: the model it was trained on, name or id.
            files: `adapter_config.json` and `adapter_model.safetensors`.
            reason: why.
        """
        header = AdapterHeader(
            parent=tenant_name(tenant),
            adapter_id=adapter_id,
            base_model=model_name(base_model),
            reason=reason,
        )
        with typed_errors(self._caller.address):
            return await self._stub.RegisterAdapter(
                _pieces(header, files),
                timeout=REGISTER_TIMEOUT_SECONDS,
                metadata=self._caller.metadata,
            )

    async def get_adapter(self, tenant: str, adapter_id: str) -> Adapter:
        """An adapter with its versions."""
        return await self._caller.unary(
            self._stub.GetAdapter,
            GetAdapterRequest(name=adapter_name(tenant, adapter_id)),
            CALL_TIMEOUT_SECONDS,
        )

    async def list_adapters(self, tenant: str) -> list[Adapter]:
        """Every adapter of a tenant, by name."""

        async def page(token: str) -> tuple[list[Adapter], str]:
            response = await self._caller.unary(
                self._stub.ListAdapters,
                ListAdaptersRequest(parent=tenant_name(tenant), page_token=token),
                CALL_TIMEOUT_SECONDS,
            )
            return list(response.adapters), response.next_page_token

        return await collect_pages(page)

    async def create_base_model(
        self, base_model_id: str, base_model: BaseModel, *, reason: str = ""
    ) -> BaseModel:
        """Register a base model whose artifacts are in the artifact store."""
        request = CreateBaseModelRequest(base_model_id=base_model_id, base_model=base_model, reason=reason)
        return await self._caller.unary(self._stub.CreateBaseModel, request, CALL_TIMEOUT_SECONDS)

    async def get_base_model(self, model: str) -> BaseModel:
        """A base model by name or id."""
        return await self._caller.unary(
            self._stub.GetBaseModel, GetBaseModelRequest(name=model_name(model)), CALL_TIMEOUT_SECONDS
        )

    async def list_base_models(self) -> list[BaseModel]:
        """Every base model, by name."""

        async def page(token: str) -> tuple[list[BaseModel], str]:
            response = await self._caller.unary(
                self._stub.ListBaseModels, ListBaseModelsRequest(page_token=token), CALL_TIMEOUT_SECONDS
            )
            return list(response.base_models), response.next_page_token

        return await collect_pages(page)

    async def delete_base_model(self, model: str, *, reason: str = "") -> int:
        """Delete a base model that nothing refers to; returns the revision that deleted it."""
        request = DeleteBaseModelRequest(name=model_name(model), reason=reason)
        response = await self._caller.unary(self._stub.DeleteBaseModel, request, CALL_TIMEOUT_SECONDS)
        return response.revision

    async def create_pool(self, pool_id: str, pool: Pool, *, reason: str = "") -> Pool:
        """Register a pool of endpoints."""
        return await self._caller.unary(
            self._stub.CreatePool,
            CreatePoolRequest(pool_id=pool_id, pool=pool, reason=reason),
            CALL_TIMEOUT_SECONDS,
        )

    async def get_pool(self, pool: str) -> Pool:
        """A pool by name or id."""
        return await self._caller.unary(
            self._stub.GetPool, GetPoolRequest(name=pool_name(pool)), CALL_TIMEOUT_SECONDS
        )

    async def list_pools(self) -> list[Pool]:
        """Every pool, by name."""

        async def page(token: str) -> tuple[list[Pool], str]:
            response = await self._caller.unary(
                self._stub.ListPools, ListPoolsRequest(page_token=token), CALL_TIMEOUT_SECONDS
            )
            return list(response.pools), response.next_page_token

        return await collect_pages(page)

    async def update_pool(self, pool: Pool) -> Pool:
        """Write a pool that was read before, every populated field of it."""
        return await self._caller.unary(
            self._stub.UpdatePool, UpdatePoolRequest(pool=pool), CALL_TIMEOUT_SECONDS
        )


async def _pieces(header: AdapterHeader, files: Mapping[str, bytes]) -> AsyncIterator[RegisterAdapterRequest]:
    yield RegisterAdapterRequest(header=header)
    for chunk in _chunks(files):
        yield RegisterAdapterRequest(chunk=chunk)


def _chunks(files: Mapping[str, bytes]) -> Iterator[FileChunk]:
    for file, data in files.items():
        for start in range(0, len(data), CHUNK_BYTES):
            yield FileChunk(file=file, data=data[start : start + CHUNK_BYTES])
