"""Creates, gets, lists and updates tenants."""

from __future__ import annotations

import secrets

from tenantry.config.v1 import config_admin_service_pb2 as pb
from tenantry.config.v1 import stored_pb2, tenant_pb2

from services.common.errors import AlreadyExistsError, InvalidArgumentError
from services.config.admin.edits import Context, Edits
from services.config.admin.page_tokens import page
from services.config.admin.platform_fields import require_may_change
from services.config.admin.tenant_config import (
    find_tenant,
    new_version,
    references_hold,
    resource_violations,
    version_puts,
)
from services.config.admin.tenant_filter import parse_filter
from services.config.admin.update_mask import merged
from services.config.etcd import keys as etcd_keys
from services.config.etcd.store import Expect, Unchanged
from services.config.intents.change import Change
from services.config.intents.version_entries import NewVersion
from services.config.rules.free_text import check_reason
from services.config.rules.validation import validate_tenant_id
from services.config.state.allocation import MAX_ORDINAL, next_number
from services.config.state.etag import require_etag
from services.config.state.records import TenantRecord
from services.config.state.resources import tenant_resource
from services.config.state.sealing import TenantKeys

_TAKEN = "a tenant of this name exists"
OUTPUT_ONLY = frozenset(
    {
        "name",
        "tenant_uid",
        "ordinal",
        "state",
        "config_version",
        "config_sha256",
        "etag",
        "create_time",
        "update_time",
        "revision",
    }
)


class TenantAdmin:
    """The admin RPCs of tenants."""

    def __init__(self, edits: Edits, keys: TenantKeys) -> None:
        self._edits = edits
        self._keys = keys

    async def create(self, request: pb.CreateTenantRequest, context: Context) -> tenant_pb2.Tenant:
        """Create a tenant with version 1 of its config."""
        operator = self._edits.operator(context, request)
        operator.require_platform()
        tenant_id, name = request.tenant_id, f"tenants/{request.tenant_id}"
        state, config = self._edits.state, request.tenant.config
        violations = validate_tenant_id(tenant_id) + check_reason(request.reason)
        violations += resource_violations(request.tenant, request.tenant)
        violations += await self._edits.checks.violations(operator, state, (name, ""), config)
        if violations:
            raise InvalidArgumentError(violations)
        if state.tenant(tenant_id) is not None:
            raise AlreadyExistsError(_TAKEN)
        now = self._edits.now()
        tenant_uid = secrets.token_hex(8)
        key, wrapped = self._keys.create(tenant_uid)
        stored = stored_pb2.StoredTenant(
            tenant_id=tenant_id,
            tenant_uid=tenant_uid,
            display_name=request.tenant.display_name,
            state=tenant_pb2.TENANT_STATE_ACTIVE,
            wrapped_key=wrapped,
            create_time=now,
            update_time=now,
        )
        version = new_version(stored, config, key, operator, request.reason)
        change = Change(operator, "CreateTenant", name, request.reason, {"tenant_uid": tenant_uid}, version)
        await self._write_new(change, stored, version, validate_only=request.validate_only)
        if request.validate_only:
            return tenant_resource(TenantRecord(stored, config, key, 0))
        return tenant_resource(operator.require_tenant(self._edits.state.tenant(tenant_id)))

    async def _write_new(
        self,
        change: Change,
        stored: stored_pb2.StoredTenant,
        version: NewVersion,
        *,
        validate_only: bool,
    ) -> None:
        """Give the tenant the next ordinal and write it; concurrent creations compete for the ordinal only."""
        name_key, counter_key = etcd_keys.tenant_name_key(stored.tenant_id), etcd_keys.ordinal_counter_key()

        async def attempt() -> None:
            if await self._edits.store.get(name_key) is not None:
                raise AlreadyExistsError(_TAKEN)
            state = self._edits.state
            violations = await self._edits.checks.violations(
                change.operator, state, (change.resource, ""), version.config
            )
            if violations:
                # The pool it names was dedicated to another tenant meanwhile.
                raise InvalidArgumentError(violations)
            counter = await self._edits.store.get(counter_key)
            stored.ordinal = next_number(counter.value if counter else None, MAX_ORDINAL, "tenant ordinal")
            if validate_only:
                return
            puts, _ = version_puts(stored, version)
            await self._edits.write(
                change,
                [
                    Expect(name_key, 0),
                    Expect(counter_key, counter.mod_revision if counter else 0),
                    Unchanged(etcd_keys.POOLS, state.revision),
                    Unchanged(etcd_keys.DELETED_MODELS, state.revision),
                ],
                {name_key: stored.tenant_uid.encode(), counter_key: str(stored.ordinal).encode(), **puts},
            )

        await self._edits.retrying(attempt)

    async def get(self, request: pb.GetTenantRequest, context: Context) -> tenant_pb2.Tenant:
        """Get a tenant."""
        operator = self._edits.operator(context, request)
        return tenant_resource(find_tenant(self._edits.state, operator, request.name, "name"))

    async def list_page(self, request: pb.ListTenantsRequest, context: Context) -> pb.ListTenantsResponse:
        """List the tenants this operator may see."""
        operator = self._edits.operator(context, request)
        wanted = parse_filter(request.filter)
        visible = [
            record
            for record in self._edits.state.under("tenants/")
            if isinstance(record, TenantRecord) and operator.may_see(record) and wanted(record)
        ]
        visible.sort(key=lambda record: record.name)
        chosen, token = page(
            visible,
            lambda record: record.name,
            request.page_size,
            request.page_token,
            f"tenants:{request.filter}",
        )
        return pb.ListTenantsResponse(
            tenants=[tenant_resource(record) for record in chosen], next_page_token=token
        )

    async def update(self, request: pb.UpdateTenantRequest, context: Context) -> tenant_pb2.Tenant:
        """Update a tenant; a changed config becomes the next version."""
        operator = self._edits.operator(context, request)
        state = self._edits.state
        record = find_tenant(state, operator, request.tenant.name, "tenant.name")
        require_etag(request.tenant.etag, record.mod_revision, "tenant.etag")
        current = tenant_resource(record)
        wanted = merged(current, request.tenant, request.update_mask.paths, OUTPUT_ONLY)
        require_may_change(operator, record.config, wanted.config, "tenant.config")
        violations = resource_violations(wanted, request.tenant) + check_reason(request.reason)
        violations += await self._edits.checks.violations(
            operator,
            state,
            (record.name, record.stored.tenant_uid),
            wanted.config,
            sent=request.tenant.config,
        )
        if violations:
            raise InvalidArgumentError(violations)
        if wanted == current:
            return current
        stored = stored_pb2.StoredTenant()
        stored.CopyFrom(record.stored)
        stored.display_name = wanted.display_name
        stored.update_time.CopyFrom(self._edits.now())
        tenant_uid, version = stored.tenant_uid, None
        puts, deletes = {etcd_keys.tenant_key(tenant_uid): stored.SerializeToString()}, list[str]()
        conditions: list[Expect | Unchanged] = [Expect(etcd_keys.tenant_key(tenant_uid), record.mod_revision)]
        if wanted.config != current.config:
            version = new_version(stored, wanted.config, record.key, operator, request.reason)
            puts, deletes = version_puts(stored, version)
            history = etcd_keys.version_key(tenant_uid, stored.config_version)
            conditions += [Expect(history, 0), *references_hold(state, tenant_uid, wanted.config)]
        if request.validate_only:
            return tenant_resource(TenantRecord(stored, wanted.config, record.key, record.mod_revision))
        change = Change(operator, "UpdateTenant", record.name, request.reason, version=version)
        await self._edits.write(change, conditions, puts, deletes)
        return tenant_resource(find_tenant(self._edits.state, operator, request.tenant.name, "tenant.name"))
