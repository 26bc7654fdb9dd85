"""The operator's calls about a tenant's config versions."""

from __future__ import annotations

import grpc
from tenantry.config.v1.config_admin_service_pb2 import (
    DiffTenantVersionsRequest,
    GetTenantVersionRequest,
    ListTenantVersionsRequest,
    RollbackTenantRequest,
)
from tenantry.config.v1.config_admin_service_pb2_grpc import ConfigAdminServiceStub
from tenantry.config.v1.tenant_pb2 import Tenant
from tenantry.config.v1.tenant_version_pb2 import Difference, TenantVersion

from services.cli.clients.listener import Caller, bearer
from services.cli.clients.names import tenant_name
from services.cli.clients.paging import collect_pages

CALL_TIMEOUT_SECONDS = 10.0


class VersionsClient:
    """The config versions' calls of `ConfigAdminService`; reached through `AdminClient.versions`."""

    def __init__(self, channel: grpc.aio.Channel, address: str, key: str) -> None:
        self._stub = ConfigAdminServiceStub(channel)
        self._caller = Caller(address, bearer(key))

    async def list_versions(self, tenant: str) -> list[TenantVersion]:
        """Every version that is kept, newest first, without its config."""

        async def page(token: str) -> tuple[list[TenantVersion], str]:
            response = await self._caller.unary(
                self._stub.ListTenantVersions,
                ListTenantVersionsRequest(parent=tenant_name(tenant), page_token=token),
                CALL_TIMEOUT_SECONDS,
            )
            return list(response.versions), response.next_page_token

        return await collect_pages(page)

    async def get_version(self, tenant: str, version: int) -> TenantVersion:
        """A version with its config."""
        request = GetTenantVersionRequest(name=f"{tenant_name(tenant)}/versions/{version}")
        return await self._caller.unary(self._stub.GetTenantVersion, request, CALL_TIMEOUT_SECONDS)

    async def diff(self, tenant: str, before: int, after: int = 0) -> list[Difference]:
        """The fields in which two versions differ; 0 means the one in force."""
        response = await self._caller.unary(
            self._stub.DiffTenantVersions,
            DiffTenantVersionsRequest(name=tenant_name(tenant), before_version=before, after_version=after),
            CALL_TIMEOUT_SECONDS,
        )
        return list(response.differences)

    async def rollback(
        self, tenant: str, version: int, *, etag: str, reason: str = "", validate_only: bool = False
    ) -> Tenant:
        """Put an older version's config in force again, as a new version.

        Args:
            tenant: name or id.
            version: the number of the version to equal.
            etag: of the state the tenant was read in.
            reason: why.
            validate_only: check everything, change nothing.
        """
        request = RollbackTenantRequest(
            name=tenant_name(tenant), version=version, etag=etag, reason=reason, validate_only=validate_only
        )
        return await self._caller.unary(self._stub.RollbackTenant, request, CALL_TIMEOUT_SECONDS)
