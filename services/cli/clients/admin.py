"""The operator's client: calls about tenants and keys. The modules `admin_*` beside this one have the rest."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import grpc
from google.protobuf.field_mask_pb2 import FieldMask
from tenantry.config.v1.config_admin_service_pb2 import (
    CreateKeyRequest,
    CreateKeyResponse,
    CreateTenantRequest,
    DeleteTenantRequest,
    GetTenantRequest,
    GetTenantUsageRequest,
    ListKeysRequest,
    ListTenantsRequest,
    ResumeTenantRequest,
    RevokeKeyRequest,
    SuspendTenantRequest,
    UpdateTenantRequest,
)
from tenantry.config.v1.config_admin_service_pb2_grpc import ConfigAdminServiceStub
from tenantry.config.v1.credential_pb2 import Key
from tenantry.config.v1.tenant_pb2 import Tenant, TenantConfig
from tenantry.config.v1.tenant_usage_pb2 import TenantUsage

from services.cli.clients.admin_catalog import CatalogClient
from services.cli.clients.admin_routers import RoutersClient
from services.cli.clients.admin_versions import VersionsClient
from services.cli.clients.listener import Caller, Listener, bearer
from services.cli.clients.names import tenant_name
from services.cli.clients.paging import collect_pages

CALL_TIMEOUT_SECONDS = 10.0


class AdminClient:
    """Calls `ConfigAdminService` with one operator's key.

    Every method raises `services.common.errors.Error`. `catalog` has the calls about adapters, base models and pools,
    `versions` those about config versions, `routers` those about routers. A `reason` is for people: it is kept in the
    operator audit log.
    """

    def __init__(self, channel: grpc.aio.Channel, address: str, key: str) -> None:
        self._stub = ConfigAdminServiceStub(channel)
        self._caller = Caller(address, bearer(key))
        self.catalog = CatalogClient(channel, address, key)
        self.versions = VersionsClient(channel, address, key)
        self.routers = RoutersClient(channel, address, key)

    @classmethod
    @asynccontextmanager
    async def connect(cls, listener: Listener, key: str) -> AsyncIterator[AdminClient]:
        """A client for as long as the context lasts."""
        async with listener.open() as channel:
            yield cls(channel, listener.address, key)

    async def create_tenant(
        self,
        tenant_id: str,
        config: TenantConfig,
        *,
        display_name: str = "",
        reason: str = "",
        validate_only: bool = False,
    ) -> Tenant:
        """Create a tenant with its first config version."""
        request = CreateTenantRequest(
            tenant_id=tenant_id,
            tenant=Tenant(display_name=display_name, config=config),
            validate_only=validate_only,
            reason=reason,
        )
        return await self._caller.unary(self._stub.CreateTenant, request, CALL_TIMEOUT_SECONDS)

    async def get_tenant(self, tenant: str) -> Tenant:
        """A tenant by name or id."""
        return await self._caller.unary(
            self._stub.GetTenant, GetTenantRequest(name=tenant_name(tenant)), CALL_TIMEOUT_SECONDS
        )

    async def get_usage(self, tenant: str) -> TenantUsage:
        """What a tenant has used of its quotas and spend budgets."""
        request = GetTenantUsageRequest(name=tenant_name(tenant))
        return await self._caller.unary(self._stub.GetTenantUsage, request, CALL_TIMEOUT_SECONDS)

    async def list_tenants(self, filter_text: str = "") -> list[Tenant]:
        """Every tenant that matches a filter (AIP-160), sorted by name."""

        async def page(token: str) -> tuple[list[Tenant], str]:
            response = await self._caller.unary(
                self._stub.ListTenants,
                ListTenantsRequest(page_token=token, filter=filter_text),
                CALL_TIMEOUT_SECONDS,
            )
            return list(response.tenants), response.next_page_token

        return await collect_pages(page)

    async def update_tenant(
        self, tenant: Tenant, *, paths: Sequence[str] = (), reason: str = "", validate_only: bool = False
    ) -> Tenant:
        """Write a tenant that was read before. Its etag guards against a lost update.

        Args:
            tenant: with the etag of the state it was read in.
            paths: the fields to change; none means every populated one.
            reason: why.
            validate_only: check everything, change nothing.
        """
        request = UpdateTenantRequest(
            tenant=tenant,
            update_mask=FieldMask(paths=paths) if paths else None,
            validate_only=validate_only,
            reason=reason,
        )
        return await self._caller.unary(self._stub.UpdateTenant, request, CALL_TIMEOUT_SECONDS)

    async def suspend_tenant(
        self, tenant: str, *, etag: str = "", reason: str = "", validate_only: bool = False
    ) -> Tenant:
        """Refuse a tenant's requests until it is resumed. An empty etag matches any state."""
        request = SuspendTenantRequest(
            name=tenant_name(tenant), etag=etag, reason=reason, validate_only=validate_only
        )
        return await self._caller.unary(self._stub.SuspendTenant, request, CALL_TIMEOUT_SECONDS)

    async def resume_tenant(self, tenant: str, *, reason: str = "") -> Tenant:
        """Serve a suspended tenant again."""
        request = ResumeTenantRequest(name=tenant_name(tenant), reason=reason)
        return await self._caller.unary(self._stub.ResumeTenant, request, CALL_TIMEOUT_SECONDS)

    async def delete_tenant(
        self, tenant: str, *, etag: str, reason: str = "", validate_only: bool = False
    ) -> int:
        """Delete a suspended tenant for good, with its keys and adapters; returns the revision that deleted it."""
        request = DeleteTenantRequest(
            name=tenant_name(tenant), etag=etag, reason=reason, validate_only=validate_only
        )
        response = await self._caller.unary(self._stub.DeleteTenant, request, CALL_TIMEOUT_SECONDS)
        return response.revision

    async def create_key(self, parent: str, key: Key | None = None, *, reason: str = "") -> CreateKeyResponse:
        """Issue a key of `tenants/{tenant}` or `operators/{operator}`. Only this answer has the secret."""
        request = CreateKeyRequest(parent=parent, key=key, reason=reason)
        return await self._caller.unary(self._stub.CreateKey, request, CALL_TIMEOUT_SECONDS)

    async def list_keys(self, parent: str) -> list[Key]:
        """Every key of a tenant or an operator, revoked ones included."""

        async def page(token: str) -> tuple[list[Key], str]:
            response = await self._caller.unary(
                self._stub.ListKeys, ListKeysRequest(parent=parent, page_token=token), CALL_TIMEOUT_SECONDS
            )
            return list(response.keys), response.next_page_token

        return await collect_pages(page)

    async def revoke_key(self, name: str, *, reason: str = "") -> Key:
        """Revoke a key for good, by its full name."""
        return await self._caller.unary(
            self._stub.RevokeKey, RevokeKeyRequest(name=name, reason=reason), CALL_TIMEOUT_SECONDS
        )
