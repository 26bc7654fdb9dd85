"""A simulator of the config service's tenants: states, versions, etags, revisions, and the routers that follow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tenantry.config.v1 import config_admin_service_pb2 as pb
from tenantry.config.v1.config_admin_service_pb2_grpc import ConfigAdminServiceServicer
from tenantry.config.v1.router_status_pb2 import RouterState, RouterStatus
from tenantry.config.v1.tenant_pb2 import Tenant, TenantState
from tenantry.config.v1.tenant_usage_pb2 import TenantUsage
from tenantry.config.v1.tenant_version_pb2 import TenantVersion

from services.common.errors import (
    AbortedError,
    AlreadyExistsError,
    Error,
    FailedPreconditionError,
    FieldViolation,
    InvalidArgumentError,
    NotFoundError,
    Reason,
)
from services.config.admin.config_diff import differences
from tests.fakes.cli_calls import OPERATOR_KEY, abort, authenticate

NOW_SECONDS = 1_795_510_800
PAGE = 2
ACTIVE, SUSPENDED = TenantState.TENANT_STATE_ACTIVE, TenantState.TENANT_STATE_SUSPENDED


@dataclass
class FakeTenants(ConfigAdminServiceServicer):
    """Keeps tenants and their versions in dicts, two a page; every change is one revision."""

    tenants: dict[str, Tenant] = field(default_factory=dict)
    versions: dict[str, list[TenantVersion]] = field(default_factory=dict)
    routers: list[RouterStatus] = field(default_factory=list)
    updates: list[pb.UpdateTenantRequest] = field(default_factory=list)
    changes: list[tuple[str, str, str]] = field(default_factory=list)
    """Of every change that was made: the method, the tenant or other resource, the reason."""
    waits: list[int] = field(default_factory=list)
    filters: list[str] = field(default_factory=list)
    usages: dict[str, TenantUsage] = field(default_factory=dict)
    revision: int = 0
    error: Error | None = None
    before_update: Callable[[], None] = lambda: None
    before_change: Callable[[str], None] = lambda _name: None
    """Called with a tenant's name before a change, not before a check: somebody else's moment."""
    refused_fields: Callable[[Tenant], list[FieldViolation]] = lambda _tenant: []

    def _enter(self, context) -> None:
        authenticate(context, OPERATOR_KEY)
        if self.error:
            abort(context, self.error)

    def _found(self, kept, name, context) -> Any:
        if name not in kept:
            abort(context, NotFoundError("no such resource"))
        return kept[name]

    def add_tenant(self, tenant_id: str, **fields: Any) -> Tenant:
        tenant = Tenant(name=f"tenants/{tenant_id}", tenant_uid=f"uid-{tenant_id}", **fields)
        tenant.state, tenant.create_time.seconds = ACTIVE, NOW_SECONDS
        if not tenant.config.models:
            tenant.config.models.add(alias="smollm2", base_model="models/smollm2")
        self.versions[tenant.name] = []
        return self._keep(tenant, next_version=True)

    def _keep(self, tenant: Tenant, *, next_version: bool = False, **about: Any) -> Tenant:
        """Make it the tenant's state, at the next revision."""
        self.revision += 1
        tenant.revision, tenant.etag = self.revision, f'"{self.revision}"'
        tenant.update_time.seconds = NOW_SECONDS + self.revision
        if next_version:
            tenant.config_version += 1
            tenant.config_sha256 = f"{tenant.config_version:02x}" * 32
            version = TenantVersion(
                name=f"{tenant.name}/versions/{tenant.config_version}",
                version=tenant.config_version,
                config_sha256=tenant.config_sha256,
                config=tenant.config,
                operator="operators/ada",
                **about,
            )
            version.create_time.seconds = NOW_SECONDS + self.revision
            self.versions[tenant.name].append(version)
        self.tenants[tenant.name] = tenant
        return tenant

    def _checked(self, tenant: Tenant, context) -> None:
        violations = self.refused_fields(tenant)
        if violations:
            abort(context, InvalidArgumentError(violations))

    def _current(self, name: str, etag: str, context, *, required: bool = False) -> Tenant:
        """A copy of a tenant, if the etag is that of its state."""
        kept = self._found(self.tenants, name, context)
        if (etag or required) and etag != kept.etag:
            abort(context, AbortedError("the tenant changed since it was read"))
        copy = Tenant()
        copy.CopyFrom(kept)
        return copy

    def GetTenantUsage(self, request, context):
        self._enter(context)
        found = self._found(self.tenants, request.name, context)
        return self.usages.get(found.name, TenantUsage(name=found.name))

    def CreateTenant(self, request, context):
        self._enter(context)
        name = f"tenants/{request.tenant_id}"
        sent = Tenant(name=name, config=request.tenant.config, display_name=request.tenant.display_name)
        self._checked(sent, context)
        if not request.validate_only:
            self.before_change(name)
        if name in self.tenants:
            abort(context, AlreadyExistsError("a tenant of this name exists"))
        if request.validate_only:
            return sent
        self.changes.append(("CreateTenant", name, request.reason))
        return self.add_tenant(request.tenant_id, config=sent.config, display_name=sent.display_name)

    def GetTenant(self, request, context):
        self._enter(context)
        return self._found(self.tenants, request.name, context)

    def ListTenants(self, request, context):
        self._enter(context)
        self.filters.append(request.filter)
        names = sorted(self.tenants)
        start = int(request.page_token or 0)
        page = [self.tenants[name] for name in names][start : start + PAGE]
        token = str(start + PAGE) if start + PAGE < len(names) else ""
        return pb.ListTenantsResponse(tenants=page, next_page_token=token)

    def UpdateTenant(self, request, context):
        self._enter(context)
        self.updates.append(request)
        self.before_update()
        if not request.validate_only:
            self.before_change(request.tenant.name)
        updated = self._current(request.tenant.name, request.tenant.etag, context, required=True)
        before = self.tenants[updated.name]
        for path in request.update_mask.paths:
            updated.ClearField(path)
            if path == "config":
                updated.config.CopyFrom(request.tenant.config)
            else:
                setattr(updated, path, getattr(request.tenant, path))
        self._checked(updated, context)
        if request.validate_only or updated == before:
            return updated
        self.changes.append(("UpdateTenant", updated.name, request.reason))
        return self._keep(updated, next_version=updated.config != before.config, reason=request.reason)

    def SuspendTenant(self, request, context):
        return self._set_state("SuspendTenant", SUSPENDED, request, context)

    def ResumeTenant(self, request, context):
        return self._set_state("ResumeTenant", ACTIVE, request, context)

    def _set_state(self, method, state, request, context):
        self._enter(context)
        if not request.validate_only:
            self.before_change(request.name)
        tenant = self._current(request.name, request.etag, context)
        if tenant.state == state:
            return tenant
        tenant.state = state
        if request.validate_only:
            return tenant
        self.changes.append((method, tenant.name, request.reason))
        return self._keep(tenant)

    def DeleteTenant(self, request, context):
        self._enter(context)
        if not request.validate_only:
            self.before_change(request.name)
        tenant = self._current(request.name, request.etag, context)
        if tenant.state != SUSPENDED:
            abort(
                context,
                FailedPreconditionError(
                    "suspend the tenant first: deleting cannot be undone", reason=Reason.RESOURCE_IN_USE
                ),
            )
        if not request.validate_only:
            self.changes.append(("DeleteTenant", tenant.name, request.reason))
            self.revision += 1
            del self.tenants[tenant.name], self.versions[tenant.name]
        return pb.DeleteTenantResponse(revision=self.revision)

    def ListTenantVersions(self, request, context):
        self._enter(context)
        tenant = self._current(request.parent, "", context)
        start = int(request.page_token or 0)
        newest_first = self.versions[tenant.name][::-1]
        page = []
        for kept in newest_first[start : start + PAGE]:
            shown = TenantVersion()
            shown.CopyFrom(kept)
            shown.ClearField("config")
            shown.active = kept.version == tenant.config_version
            page.append(shown)
        token = str(start + PAGE) if start + PAGE < len(newest_first) else ""
        return pb.ListTenantVersionsResponse(versions=page, next_page_token=token)

    def _version(self, name: str, number: int, context) -> TenantVersion:
        numbered = {kept.version: kept for kept in self.versions.get(name, [])}
        found: TenantVersion = self._found(numbered, number, context)
        return found

    def GetTenantVersion(self, request, context):
        self._enter(context)
        name, _, number = request.name.partition("/versions/")
        return self._version(name, int(number), context)

    def DiffTenantVersions(self, request, context):
        self._enter(context)
        after = self._current(request.name, "", context).config
        before = self._version(request.name, request.before_version, context).config
        if request.after_version:
            after = self._version(request.name, request.after_version, context).config
        return pb.DiffTenantVersionsResponse(differences=differences(before, after))

    def RollbackTenant(self, request, context):
        self._enter(context)
        if not request.validate_only:
            self.before_change(request.name)
        tenant = self._current(request.name, request.etag, context)
        old = self._version(request.name, request.version, context)
        if old.config == tenant.config:
            return tenant
        tenant.config.CopyFrom(old.config)
        self._checked(tenant, context)
        if request.validate_only:
            tenant.config_version += 1
            return tenant
        self.changes.append(("RollbackTenant", tenant.name, request.reason))
        return self._keep(tenant, next_version=True, reason=request.reason, rollback_of=request.version)

    def add_router(self, name: str, state: RouterState.ValueType, **fields: Any) -> RouterStatus:
        router = RouterStatus(router=name, state=state, **fields)
        router.heard_time.seconds = NOW_SECONDS
        self.routers.append(router)
        return router

    def WaitForPropagation(self, request, context):
        self._enter(context)
        self.waits.append(request.revision)
        missing = [router for router in self.routers if router.state != RouterState.ROUTER_STATE_CURRENT]
        return pb.WaitForPropagationResponse(
            revision=request.revision or self.revision,
            complete=not missing,
            missing=missing,
            applied_routers=len(self.routers) - len(missing),
        )

    def ListRouters(self, request, context):
        self._enter(context)
        return pb.ListRoutersResponse(routers=self.routers)
