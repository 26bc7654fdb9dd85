"""Tenants: create, get, list, update."""

from __future__ import annotations

import secrets

from tenantry.config.v1 import config_admin_service_pb2 as pb
from tenantry.config.v1 import stored_pb2, tenant_pb2

from services.common.errors import AlreadyExistsError, FieldViolation, InvalidArgumentError
from services.config import layout
from services.config.admin.edits import Context, Edits
from services.config.allocation import MAX_ORDINAL, next_number
from services.config.applied_versions import ConfigAudit, applied_entry
from services.config.etag import require_etag
from services.config.operators import Operator
from services.config.page_tokens import page
from services.config.resources import parse_name, tenant_resource
from services.config.sealing import TenantKey, TenantKeys
from services.config.state import AdapterRecord, ModelRecord, PoolRecord, State, TenantRecord
from services.config.store import Expect, Unchanged
from services.config.update_mask import merged
from services.config.validation import Surroundings, unknown_fields, validate_config, validate_tenant_id
from services.config.versions import canonical_bytes, config_sha256

MAX_DISPLAY_NAME = 128
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
    }
)


class TenantAdmin:
    """The tenants' part of the admin service."""

    def __init__(self, edits: Edits, keys: TenantKeys, audit: ConfigAudit | None) -> None:
        self._edits = edits
        self._keys = keys
        self._audit = audit

    async def create(self, request: pb.CreateTenantRequest, context: Context) -> tenant_pb2.Tenant:
        """Create a tenant with version 1 of its config."""
        operator = self._edits.operator(context, request)
        operator.require_platform()
        tenant_id, name = request.tenant_id, f"tenants/{request.tenant_id}"
        state, config = self._edits.state, request.tenant.config
        violations = validate_tenant_id(tenant_id)
        violations += _resource_violations(request.tenant)
        violations += validate_config(config, surroundings(state, name, ""))
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
        version = _put_config(stored, config, key, operator, 1)
        await self._write_new(stored, version, state.revision, validate_only=request.validate_only)
        if request.validate_only:
            return tenant_resource(TenantRecord(stored, config, key, 0))
        self._tell(tenant_uid, version, config)
        return tenant_resource(operator.require_tenant(self._edits.state.tenant(tenant_id)))

    async def _write_new(
        self,
        stored: stored_pb2.StoredTenant,
        version: stored_pb2.StoredVersion,
        seen_revision: int,
        *,
        validate_only: bool,
    ) -> None:
        """Give the tenant the next ordinal and write it; creations at the same moment race for the ordinal only."""
        name_key, counter_key = layout.tenant_name_key(stored.tenant_id), layout.ordinal_counter_key()

        async def attempt() -> None:
            if await self._edits.store.get(name_key) is not None:
                raise AlreadyExistsError(_TAKEN)
            counter = await self._edits.store.get(counter_key)
            stored.ordinal = next_number(counter.value if counter else None, MAX_ORDINAL, "tenant ordinal")
            if validate_only:
                return
            await self._edits.write(
                [
                    Expect(name_key, 0),
                    Expect(counter_key, counter.mod_revision if counter else 0),
                    Unchanged(layout.POOLS, seen_revision),
                ],
                {
                    name_key: stored.tenant_uid.encode(),
                    counter_key: str(stored.ordinal).encode(),
                    layout.tenant_key(stored.tenant_uid): stored.SerializeToString(),
                    layout.version_key(stored.tenant_uid, 1): version.SerializeToString(),
                },
            )

        await self._edits.retrying(attempt)

    def _tell(
        self, tenant_uid: str, version: stored_pb2.StoredVersion, config: tenant_pb2.TenantConfig
    ) -> None:
        if self._audit is not None:
            self._audit.append_soon(applied_entry(tenant_uid, version, config))

    async def get(self, request: pb.GetTenantRequest, context: Context) -> tenant_pb2.Tenant:
        """Get a tenant."""
        operator = self._edits.operator(context, request)
        return tenant_resource(find_tenant(self._edits.state, operator, request.name, "name"))

    async def list_page(self, request: pb.ListTenantsRequest, context: Context) -> pb.ListTenantsResponse:
        """List the tenants this operator may see."""
        operator = self._edits.operator(context, request)
        visible = [
            record
            for record in self._edits.state.under("tenants/")
            if isinstance(record, TenantRecord) and operator.may_see(record)
        ]
        visible.sort(key=lambda record: record.name)
        chosen, token = page(
            visible, lambda record: record.name, request.page_size, request.page_token, "tenants"
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
        around = surroundings(state, record.name, record.stored.tenant_uid)
        violations = _resource_violations(wanted) + validate_config(wanted.config, around)
        if violations:
            raise InvalidArgumentError(violations)
        if wanted == current:
            return current
        stored = stored_pb2.StoredTenant()
        stored.CopyFrom(record.stored)
        stored.display_name = wanted.display_name
        stored.update_time.CopyFrom(self._edits.now())
        tenant_uid, version = stored.tenant_uid, None
        puts: dict[str, bytes] = {}
        conditions: list[Expect | Unchanged] = [Expect(layout.tenant_key(tenant_uid), record.mod_revision)]
        if wanted.config != current.config:
            version = _put_config(stored, wanted.config, record.key, operator, stored.config_version + 1)
            history = layout.version_key(tenant_uid, version.config_version)
            puts[history] = version.SerializeToString()
            # What the config refers to was looked up in `state`; a pool that changed since may not fit any more.
            conditions += [Expect(history, 0), Unchanged(layout.POOLS, state.revision)]
        puts[layout.tenant_key(tenant_uid)] = stored.SerializeToString()
        if request.validate_only:
            return tenant_resource(TenantRecord(stored, wanted.config, record.key, record.mod_revision))
        await self._edits.write(conditions, puts)
        if version is not None:
            self._tell(tenant_uid, version, wanted.config)
        return tenant_resource(find_tenant(self._edits.state, operator, request.tenant.name, "tenant.name"))


def find_tenant(state: State, operator: Operator, name: str, field: str) -> TenantRecord:
    """The tenant of a resource name, if this operator may see it.

    Raises:
        InvalidArgumentError: not a tenant's name.
        NotFoundError: missing, or not this operator's: the two look the same.
    """
    _, (tenant_id,) = parse_name(name, "tenants/{tenant}", field=field)
    return operator.require_tenant(state.tenant(tenant_id))


def surroundings(state: State, tenant_name: str, tenant_uid: str) -> Surroundings:
    """What a tenant's config may refer to."""
    adapters = {
        record.stored.adapter_id: {v.version: v.base_model for v in record.stored.versions}
        for record in (state.under(f"adapters/{tenant_uid}/") if tenant_uid else ())
        if isinstance(record, AdapterRecord)
    }
    return Surroundings(
        tenant_name,
        {r.model.name: r.model.context_tokens for r in state.under("models/") if isinstance(r, ModelRecord)},
        {
            r.pool.name: (r.pool.base_model, r.pool.dedicated_to)
            for r in state.under("pools/")
            if isinstance(r, PoolRecord)
        },
        adapters,
    )


def _put_config(
    stored: stored_pb2.StoredTenant,
    config: tenant_pb2.TenantConfig,
    key: TenantKey,
    operator: Operator,
    number: int,
) -> stored_pb2.StoredVersion:
    sealed, digest = key.seal_config(canonical_bytes(config)), config_sha256(config)
    stored.config_version, stored.config_sha256, stored.sealed_config = number, digest, sealed
    return stored_pb2.StoredVersion(
        config_version=number,
        config_sha256=digest,
        sealed_config=sealed,
        create_time=stored.update_time,
        operator_key_id=operator.key_id,
    )


def _resource_violations(tenant: tenant_pb2.Tenant) -> list[FieldViolation]:
    found = [
        FieldViolation(where, "is not known to this version")
        for where in unknown_fields(tenant, "tenant")
        if not where.startswith("tenant.config")
    ]
    if len(tenant.display_name) > MAX_DISPLAY_NAME:
        what = f"has {len(tenant.display_name)} characters, more than {MAX_DISPLAY_NAME}"
        found.append(FieldViolation("tenant.display_name", what))
    if not tenant.HasField("config"):
        found.append(FieldViolation("tenant.config", "is missing"))
    return found
