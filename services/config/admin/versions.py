"""Config versions: list, get, compare, and roll back."""

from __future__ import annotations

from dataclasses import replace

from tenantry.config.v1 import config_admin_service_pb2 as pb
from tenantry.config.v1 import stored_pb2, tenant_pb2, tenant_version_pb2

from services.common.errors import InvalidArgumentError, NotFoundError
from services.config import layout
from services.config.admin.edits import Context, Edits
from services.config.admin.tenant_config import (
    change_details,
    find_tenant,
    put_config,
    references_hold,
    version_puts,
)
from services.config.admin.tenants import TenantAdmin
from services.config.config_diff import differences
from services.config.etag import require_etag
from services.config.operator_log import Change
from services.config.page_tokens import page
from services.config.platform_fields import require_may_change
from services.config.resources import parse_name, tenant_resource
from services.config.state import TenantRecord
from services.config.store import Expect

_MAX_NUMBER = 10**12
_GONE = "no such version; the oldest are kept in the tenant's audit log only"


class VersionAdmin:
    """The config versions' part of the admin service."""

    def __init__(self, edits: Edits, tenants: TenantAdmin) -> None:
        self._edits = edits
        self._tenants = tenants

    async def list_page(
        self, request: pb.ListTenantVersionsRequest, context: Context
    ) -> pb.ListTenantVersionsResponse:
        """List a tenant's versions, newest first, without their configs."""
        operator = self._edits.operator(context, request)
        tenant = find_tenant(self._edits.state, operator, request.parent, "parent")
        items, _ = await self._edits.store.list(layout.versions_prefix(tenant.stored.tenant_uid))
        found = [stored_pb2.StoredVersion.FromString(item.value) for item in items.values()]
        found.sort(key=_newest_first)
        chosen, token = page(
            found,
            _newest_first,
            request.page_size,
            request.page_token,
            f"versions:{tenant.stored.tenant_uid}",
        )
        return pb.ListTenantVersionsResponse(
            versions=[self._resource(tenant, version, whole=False) for version in chosen],
            next_page_token=token,
        )

    async def get(
        self, request: pb.GetTenantVersionRequest, context: Context
    ) -> tenant_version_pb2.TenantVersion:
        """Get a version with its config."""
        operator = self._edits.operator(context, request)
        _, (tenant_id, number) = parse_name(request.name, "tenants/{tenant}/versions/{version}", field="name")
        tenant = operator.require_tenant(self._edits.state.tenant(tenant_id))
        return self._resource(tenant, await self._version(tenant, int(number)), whole=True)

    async def diff(
        self, request: pb.DiffTenantVersionsRequest, context: Context
    ) -> pb.DiffTenantVersionsResponse:
        """Say how two versions differ."""
        operator = self._edits.operator(context, request)
        tenant = find_tenant(self._edits.state, operator, request.name, "name")
        before = _config(tenant, await self._version(tenant, request.before_version))
        after = tenant.config
        if request.after_version:
            after = _config(tenant, await self._version(tenant, request.after_version))
        return pb.DiffTenantVersionsResponse(differences=differences(before, after))

    async def rollback(self, request: pb.RollbackTenantRequest, context: Context) -> tenant_pb2.Tenant:
        """Put an older config in force again, as a new version; one that no longer fits is refused."""
        operator = self._edits.operator(context, request)
        state = self._edits.state
        record = find_tenant(state, operator, request.name, "name")
        if request.etag:
            require_etag(request.etag, record.mod_revision, "etag")
        config = _config(record, await self._version(record, request.version))
        require_may_change(operator, record.config, config, "version.config")
        tenant = (record.name, record.stored.tenant_uid)
        violations = await self._edits.checks.violations(operator, state, tenant, config, "version.config")
        violations += self._edits.check_reason(request.reason)
        if violations:
            raise InvalidArgumentError(violations)
        if config == record.config:
            return tenant_resource(record)
        stored = stored_pb2.StoredTenant()
        stored.CopyFrom(record.stored)
        stored.update_time.CopyFrom(self._edits.now())
        change = Change(operator, "RollbackTenant", record.name, request.reason)
        version = put_config(stored, config, record.key, change, rollback_of=request.version)
        change = replace(change, details={"rollback_of": request.version, **change_details(version)})
        if request.validate_only:
            return tenant_resource(TenantRecord(stored, config, record.key, record.mod_revision))
        puts, deletes = version_puts(stored, version)
        await self._edits.write(
            change,
            [
                Expect(layout.tenant_key(stored.tenant_uid), record.mod_revision),
                Expect(layout.version_key(stored.tenant_uid, version.config_version), 0),
                *references_hold(state, stored.tenant_uid, config),
            ],
            puts,
            deletes,
            self._tenants.telling(stored.tenant_uid, version, config),
        )
        return tenant_resource(find_tenant(self._edits.state, operator, request.name, "name"))

    async def _version(self, tenant: TenantRecord, number: int) -> stored_pb2.StoredVersion:
        if not 0 < number < _MAX_NUMBER:
            raise NotFoundError(_GONE)
        stored = await self._edits.store.get(layout.version_key(tenant.stored.tenant_uid, number))
        if stored is None:
            raise NotFoundError(_GONE)
        return stored_pb2.StoredVersion.FromString(stored.value)

    def _resource(
        self, tenant: TenantRecord, version: stored_pb2.StoredVersion, *, whole: bool
    ) -> tenant_version_pb2.TenantVersion:
        number = version.config_version
        return tenant_version_pb2.TenantVersion(
            name=f"{tenant.name}/versions/{number}",
            version=number,
            config_sha256=version.config_sha256,
            config=_config(tenant, version) if whole else None,
            create_time=version.create_time,
            operator=version.operator,
            operator_key_id=version.operator_key_id,
            reason=tenant.key.open_config(version.sealed_reason).decode() if version.sealed_reason else "",
            rollback_of=version.rollback_of,
            active=number == tenant.stored.config_version,
        )


def _newest_first(version: stored_pb2.StoredVersion) -> str:
    return f"{_MAX_NUMBER - version.config_version:013d}"


def _config(tenant: TenantRecord, version: stored_pb2.StoredVersion) -> tenant_pb2.TenantConfig:
    return tenant_pb2.TenantConfig.FromString(tenant.key.open_config(version.sealed_config))
