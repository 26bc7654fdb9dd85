"""The admin service: passes each RPC to the module of its noun."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from tenantry.config.v1 import (
    adapter_pb2,
    config_admin_service_pb2_grpc,
    credential_pb2,
    pool_pb2,
    tenant_pb2,
    tenant_usage_pb2,
    tenant_version_pb2,
)
from tenantry.config.v1 import config_admin_service_pb2 as pb

from services.common.artifacts import ArtifactStore
from services.common.tokens import TokenIssuer
from services.config.admin.adapters import AdapterAdmin
from services.config.admin.edits import Context, Edits
from services.config.admin.keys import KeyAdmin
from services.config.admin.models import ModelAdmin
from services.config.admin.pools import PoolAdmin
from services.config.admin.propagation import PropagationAdmin
from services.config.admin.tenant_state import TenantStateAdmin
from services.config.admin.tenants import TenantAdmin
from services.config.admin.usage import UsageAdmin
from services.config.admin.versions import VersionAdmin
from services.config.quota.leases import QuotaLeases
from services.config.state.sealing import TenantKeys


@dataclass(frozen=True)
class AdminServicer(config_admin_service_pb2_grpc.ConfigAdminServiceServicer):
    """Holds no policy of its own."""

    tenants: TenantAdmin
    versions: VersionAdmin
    tenant_state: TenantStateAdmin
    keys: KeyAdmin
    adapters: AdapterAdmin
    models: ModelAdmin
    pools: PoolAdmin
    propagation: PropagationAdmin
    usage: UsageAdmin

    async def CreateTenant(self, request: pb.CreateTenantRequest, context: Context) -> tenant_pb2.Tenant:
        """Create a tenant."""
        return await self.tenants.create(request, context)

    async def GetTenant(self, request: pb.GetTenantRequest, context: Context) -> tenant_pb2.Tenant:
        """Get a tenant."""
        return await self.tenants.get(request, context)

    async def ListTenants(self, request: pb.ListTenantsRequest, context: Context) -> pb.ListTenantsResponse:
        """List tenants."""
        return await self.tenants.list_page(request, context)

    async def UpdateTenant(self, request: pb.UpdateTenantRequest, context: Context) -> tenant_pb2.Tenant:
        """Update a tenant."""
        return await self.tenants.update(request, context)

    async def SuspendTenant(self, request: pb.SuspendTenantRequest, context: Context) -> tenant_pb2.Tenant:
        """Stop serving a tenant."""
        return await self.tenant_state.suspend(request, context)

    async def ResumeTenant(self, request: pb.ResumeTenantRequest, context: Context) -> tenant_pb2.Tenant:
        """Serve a tenant again."""
        return await self.tenant_state.resume(request, context)

    async def DeleteTenant(
        self, request: pb.DeleteTenantRequest, context: Context
    ) -> pb.DeleteTenantResponse:
        """Delete a tenant."""
        return await self.tenant_state.delete(request, context)

    async def GetTenantUsage(
        self, request: pb.GetTenantUsageRequest, context: Context
    ) -> tenant_usage_pb2.TenantUsage:
        """Get what a tenant has used."""
        return await self.usage.get(request, context)

    async def ListTenantVersions(
        self, request: pb.ListTenantVersionsRequest, context: Context
    ) -> pb.ListTenantVersionsResponse:
        """List config versions."""
        return await self.versions.list_page(request, context)

    async def GetTenantVersion(
        self, request: pb.GetTenantVersionRequest, context: Context
    ) -> tenant_version_pb2.TenantVersion:
        """Get a config version."""
        return await self.versions.get(request, context)

    async def DiffTenantVersions(
        self, request: pb.DiffTenantVersionsRequest, context: Context
    ) -> pb.DiffTenantVersionsResponse:
        """Compare two config versions."""
        return await self.versions.diff(request, context)

    async def RollbackTenant(self, request: pb.RollbackTenantRequest, context: Context) -> tenant_pb2.Tenant:
        """Put an older config in force again."""
        return await self.versions.rollback(request, context)

    async def WaitForPropagation(
        self, request: pb.WaitForPropagationRequest, context: Context
    ) -> pb.WaitForPropagationResponse:
        """Wait until routers have a revision."""
        return await self.propagation.wait(request, context)

    async def ListRouters(self, request: pb.ListRoutersRequest, context: Context) -> pb.ListRoutersResponse:
        """List routers."""
        return await self.propagation.list_page(request, context)

    async def CreateKey(self, request: pb.CreateKeyRequest, context: Context) -> pb.CreateKeyResponse:
        """Issue a key."""
        return await self.keys.create(request, context)

    async def ListKeys(self, request: pb.ListKeysRequest, context: Context) -> pb.ListKeysResponse:
        """List keys."""
        return await self.keys.list_page(request, context)

    async def RevokeKey(self, request: pb.RevokeKeyRequest, context: Context) -> credential_pb2.Key:
        """Revoke a key."""
        return await self.keys.revoke(request, context)

    async def RegisterAdapter(
        self, request_iterator: AsyncIterator[pb.RegisterAdapterRequest], context: Context
    ) -> adapter_pb2.Adapter:
        """Register an adapter version."""
        return await self.adapters.register(request_iterator, context)

    async def GetAdapter(self, request: pb.GetAdapterRequest, context: Context) -> adapter_pb2.Adapter:
        """Get an adapter."""
        return await self.adapters.get(request, context)

    async def ListAdapters(
        self, request: pb.ListAdaptersRequest, context: Context
    ) -> pb.ListAdaptersResponse:
        """List adapters."""
        return await self.adapters.list_page(request, context)

    async def CreateBaseModel(
        self, request: pb.CreateBaseModelRequest, context: Context
    ) -> pool_pb2.BaseModel:
        """Register a base model."""
        return await self.models.create(request, context)

    async def GetBaseModel(self, request: pb.GetBaseModelRequest, context: Context) -> pool_pb2.BaseModel:
        """Get a base model."""
        return await self.models.get(request, context)

    async def ListBaseModels(
        self, request: pb.ListBaseModelsRequest, context: Context
    ) -> pb.ListBaseModelsResponse:
        """List base models."""
        return await self.models.list_page(request, context)

    async def DeleteBaseModel(
        self, request: pb.DeleteBaseModelRequest, context: Context
    ) -> pb.DeleteBaseModelResponse:
        """Delete a base model."""
        return await self.models.delete(request, context)

    async def CreatePool(self, request: pb.CreatePoolRequest, context: Context) -> pool_pb2.Pool:
        """Register a pool."""
        return await self.pools.create(request, context)

    async def GetPool(self, request: pb.GetPoolRequest, context: Context) -> pool_pb2.Pool:
        """Get a pool."""
        return await self.pools.get(request, context)

    async def ListPools(self, request: pb.ListPoolsRequest, context: Context) -> pb.ListPoolsResponse:
        """List pools."""
        return await self.pools.list_page(request, context)

    async def UpdatePool(self, request: pb.UpdatePoolRequest, context: Context) -> pool_pb2.Pool:
        """Update a pool."""
        return await self.pools.update(request, context)


def admin_servicer(
    edits: Edits,
    keys: TenantKeys,
    issuer: TokenIssuer,
    artifacts: ArtifactStore,
    propagation: PropagationAdmin,
    leases: QuotaLeases,
) -> AdminServicer:
    """Build the service from the modules of all nouns."""
    return AdminServicer(
        tenants=TenantAdmin(edits, keys),
        versions=VersionAdmin(edits),
        tenant_state=TenantStateAdmin(edits),
        keys=KeyAdmin(edits, issuer),
        adapters=AdapterAdmin(edits, artifacts),
        models=ModelAdmin(edits, artifacts),
        pools=PoolAdmin(edits),
        propagation=propagation,
        usage=UsageAdmin(edits, leases),
    )
