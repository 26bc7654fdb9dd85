"""Lists, gets, compares and rolls back config versions."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from tenantry.config.v1 import config_admin_service_pb2 as pb
from tenantry.config.v1 import stored_pb2, tenant_pb2, tenant_version_pb2

from services.common.errors import InternalError, InvalidArgumentError, NotFoundError
from services.config.admin.config_diff import differences
from services.config.admin.edits import Context, Edits
from services.config.admin.page_tokens import page
from services.config.admin.platform_fields import require_may_change
from services.config.admin.tenant_config import (
    KEPT_VERSIONS,
    find_tenant,
    new_version,
    references_hold,
    version_puts,
)
from services.config.etcd import keys as etcd_keys
from services.config.etcd.store import Expect, Stored
from services.config.intents.change import Change
from services.config.rules.free_text import check_reason
from services.config.state.etag import require_etag
from services.config.state.records import TenantRecord
from services.config.state.resources import parse_name, tenant_resource
from services.config.state.sealed_versions import open_version
from services.config.state.sealing import SealError

_log = logging.getLogger(__name__)
_MAX_NUMBER = 10**12
_GONE = "no such version; older ones are in the tenant's audit log only"


class VersionAdmin:
    """The admin RPCs of config versions."""

    def __init__(self, edits: Edits) -> None:
        self._edits = edits

    async def list_page(
        self, request: pb.ListTenantVersionsRequest, context: Context
    ) -> pb.ListTenantVersionsResponse:
        """List a tenant's versions, newest first, without their configs."""
        operator = self._edits.operator(context, request)
        tenant = find_tenant(self._edits.state, operator, request.parent, "parent")
        newest = tenant.stored.config_version
        # The numbers are known without reading versions of up to 256 KiB each.
        numbers = range(newest, max(newest - KEPT_VERSIONS, 0), -1)
        chosen, token = page(
            numbers,
            _newest_first,
            request.page_size,
            request.page_token,
            f"versions:{tenant.stored.tenant_uid}",
        )
        found = [await self._listed(tenant, number) for number in chosen]
        return pb.ListTenantVersionsResponse(
            versions=[version for version in found if version is not None], next_page_token=token
        )

    async def get(
        self, request: pb.GetTenantVersionRequest, context: Context
    ) -> tenant_version_pb2.TenantVersion:
        """Get a version with its config."""
        operator = self._edits.operator(context, request)
        _, (tenant_id, number) = parse_name(request.name, "tenants/{tenant}/versions/{version}", field="name")
        tenant = operator.require_tenant(self._edits.state.tenant(tenant_id))
        return _resource(tenant, await self._version(tenant, int(number)), whole=True)

    async def diff(
        self, request: pb.DiffTenantVersionsRequest, context: Context
    ) -> pb.DiffTenantVersionsResponse:
        """Compare two versions, or one with the config in force."""
        operator = self._edits.operator(context, request)
        tenant = find_tenant(self._edits.state, operator, request.name, "name")
        before, _ = _opened(tenant, await self._version(tenant, request.before_version))
        after = tenant.config
        if request.after_version:
            after, _ = _opened(tenant, await self._version(tenant, request.after_version))
        return pb.DiffTenantVersionsResponse(differences=differences(before, after))

    async def rollback(self, request: pb.RollbackTenantRequest, context: Context) -> tenant_pb2.Tenant:
        """Put an older config in force as a new version; one that is no longer valid is refused."""
        operator = self._edits.operator(context, request)
        state = self._edits.state
        record = find_tenant(state, operator, request.name, "name")
        if request.etag:
            require_etag(request.etag, record.mod_revision, "etag")
        config, _ = _opened(record, await self._version(record, request.version))
        require_may_change(operator, record.config, config, "version.config")
        tenant = (record.name, record.stored.tenant_uid)
        violations = await self._edits.checks.violations(operator, state, tenant, config, "version.config")
        violations += check_reason(request.reason)
        if violations:
            raise InvalidArgumentError(violations)
        if config == record.config:
            return tenant_resource(record)
        stored = stored_pb2.StoredTenant()
        stored.CopyFrom(record.stored)
        stored.update_time.CopyFrom(self._edits.now())
        version = new_version(
            stored, config, record.key, operator, request.reason, rollback_of=request.version
        )
        change = Change(
            operator,
            "RollbackTenant",
            record.name,
            request.reason,
            {"rollback_of": request.version},
            version,
        )
        if request.validate_only:
            return tenant_resource(TenantRecord(stored, config, record.key, record.mod_revision))
        puts, deletes = version_puts(stored, version)
        await self._edits.write(
            change,
            [
                Expect(etcd_keys.tenant_key(stored.tenant_uid), record.mod_revision),
                Expect(etcd_keys.version_key(stored.tenant_uid, stored.config_version), 0),
                *references_hold(state, stored.tenant_uid, config),
            ],
            puts,
            deletes,
        )
        return tenant_resource(find_tenant(self._edits.state, operator, request.name, "name"))

    async def _listed(self, tenant: TenantRecord, number: int) -> tenant_version_pb2.TenantVersion | None:
        """A version without its config; None for one that is no longer kept."""
        key = etcd_keys.version_key(tenant.stored.tenant_uid, number)
        stored = await self._edits.store.get(key)
        return None if stored is None else _resource(tenant, _Found.of(key, stored), whole=False)

    async def _version(self, tenant: TenantRecord, number: int) -> _Found:
        if not 0 < number < _MAX_NUMBER:
            raise NotFoundError(_GONE)
        key = etcd_keys.version_key(tenant.stored.tenant_uid, number)
        stored = await self._edits.store.get(key)
        if stored is None:
            raise NotFoundError(_GONE)
        return _Found.of(key, stored)


@dataclass(frozen=True, slots=True)
class _Found:
    """A stored version, not opened yet."""

    number: int
    """The number in the key."""
    stored: stored_pb2.StoredVersion

    @classmethod
    def of(cls, key: str, item: Stored) -> _Found:
        return cls(etcd_keys.version_number(key), stored_pb2.StoredVersion.FromString(item.value))


def _resource(tenant: TenantRecord, found: _Found, *, whole: bool) -> tenant_version_pb2.TenantVersion:
    version, number = found.stored, found.number
    config, reason = _opened(tenant, found)
    return tenant_version_pb2.TenantVersion(
        name=f"{tenant.name}/versions/{number}",
        version=number,
        config_sha256=version.config_sha256,
        config=config if whole else None,
        create_time=version.create_time,
        operator=version.operator,
        operator_key_id=version.operator_key_id,
        reason=reason,
        rollback_of=version.rollback_of,
        active=number == tenant.stored.config_version,
    )


def _newest_first(number: int) -> str:
    return f"{_MAX_NUMBER - number:013d}"


def _opened(tenant: TenantRecord, found: _Found) -> tuple[tenant_pb2.TenantConfig, str]:
    try:
        return open_version(found.stored, found.number, tenant.key)
    except SealError as error:
        _log.error("ALARM: version %d of %s is not what was written: %s", found.number, tenant.name, error)
        raise InternalError(
            f"version {found.number} is not what was written: it was changed in etcd"
        ) from None
