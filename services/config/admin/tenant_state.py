"""A tenant's state: suspend, resume, delete."""

from __future__ import annotations

from tenantry.config.v1 import config_admin_service_pb2 as pb
from tenantry.config.v1 import stored_pb2, tenant_pb2

from services.common.errors import FailedPreconditionError, InvalidArgumentError, Reason
from services.config import layout
from services.config.admin.edits import Context, Edits
from services.config.admin.tenant_config import find_tenant
from services.config.etag import require_etag
from services.config.operator_log import Change
from services.config.operators import Operator
from services.config.resources import tenant_resource
from services.config.state import AdapterRecord, CredentialRecord, PoolRecord, State, TenantRecord
from services.config.store import MAX_TXN_OPERATIONS, Expect

_ACTIVE, _SUSPENDED = tenant_pb2.TENANT_STATE_ACTIVE, tenant_pb2.TENANT_STATE_SUSPENDED
WINDOWS = ("hour", "day", "month")
_BATCH = MAX_TXN_OPERATIONS // 2


class TenantStateAdmin:
    """The part of the admin service that starts, stops and ends serving a tenant."""

    def __init__(self, edits: Edits) -> None:
        self._edits = edits

    async def suspend(self, request: pb.SuspendTenantRequest, context: Context) -> tenant_pb2.Tenant:
        """Stop serving a tenant; suspending it again changes nothing."""
        return await self._set(request, context, "SuspendTenant", _SUSPENDED)

    async def resume(self, request: pb.ResumeTenantRequest, context: Context) -> tenant_pb2.Tenant:
        """Serve a tenant again; resuming it again changes nothing."""
        return await self._set(request, context, "ResumeTenant", _ACTIVE)

    async def _set(
        self,
        request: pb.SuspendTenantRequest | pb.ResumeTenantRequest,
        context: Context,
        method: str,
        state: tenant_pb2.TenantState.ValueType,
    ) -> tenant_pb2.Tenant:
        operator, record = self._asked(request, context)
        # A tenant-admin may stop its own tenant in an emergency, not undo what the platform has stopped.
        if state == _ACTIVE:
            operator.require_platform()
        if record.stored.state == state:
            return tenant_resource(record)
        stored = stored_pb2.StoredTenant()
        stored.CopyFrom(record.stored)
        stored.state = state
        stored.update_time.CopyFrom(self._edits.now())
        if request.validate_only:
            return tenant_resource(TenantRecord(stored, record.config, record.key, record.mod_revision))
        key = layout.tenant_key(stored.tenant_uid)
        change = Change(operator, method, record.name, request.reason)
        expected = [Expect(key, record.mod_revision)]
        await self._edits.write(change, expected, {key: stored.SerializeToString()})
        return tenant_resource(find_tenant(self._edits.state, operator, request.name, "name"))

    async def delete(self, request: pb.DeleteTenantRequest, context: Context) -> pb.DeleteTenantResponse:
        """Delete a suspended tenant with its keys and adapters.

        Its wrapped key goes with it, so nothing of its config can be opened any more, in backups of etcd's
        history neither. A tombstone keeps its uid and ordinal from being given out again.
        """
        operator, record = self._asked(request, context)
        operator.require_platform()
        state, uid = self._edits.state, record.stored.tenant_uid
        _require_unused(state, record)
        if request.validate_only:
            return pb.DeleteTenantResponse(revision=state.revision)
        change = Change(operator, "DeleteTenant", record.name, request.reason, {"tenant_uid": uid})
        tenant_key = layout.tenant_key(uid)
        unchanged = Expect(tenant_key, record.mod_revision)
        owned = _owned(state, uid)
        while len(owned) > _BATCH:
            batch, owned = owned[:_BATCH], owned[_BATCH:]
            await self._edits.write(change, [unchanged, *batch], {}, [condition.key for condition in batch])
        tombstone = stored_pb2.StoredTombstone(
            tenant_id=record.stored.tenant_id,
            tenant_uid=uid,
            ordinal=record.stored.ordinal,
            delete_time=self._edits.now(),
            operator_key_id=operator.key_id,
        )
        revision = await self._edits.write(
            change,
            [unchanged, *owned],
            {layout.tombstone_key(uid): tombstone.SerializeToString()},
            [
                tenant_key,
                layout.tenant_name_key(record.stored.tenant_id),
                *(layout.quota_key(uid, window) for window in WINDOWS),
                *(item.key for item in owned),
            ],
        )
        return pb.DeleteTenantResponse(revision=revision)

    def _asked(
        self,
        request: pb.SuspendTenantRequest | pb.ResumeTenantRequest | pb.DeleteTenantRequest,
        context: Context,
    ) -> tuple[Operator, TenantRecord]:
        operator = self._edits.operator(context, request)
        record = find_tenant(self._edits.state, operator, request.name, "name")
        if request.etag:
            require_etag(request.etag, record.mod_revision, "etag")
        wrong = self._edits.check_reason(request.reason)
        if wrong:
            raise InvalidArgumentError(wrong)
        return operator, record


def _require_unused(state: State, record: TenantRecord) -> None:
    if record.stored.state != _SUSPENDED:
        raise FailedPreconditionError(
            "suspend the tenant first: deleting cannot be undone", reason=Reason.RESOURCE_IN_USE
        )
    for pool in state.under("pools/"):
        if isinstance(pool, PoolRecord) and pool.pool.dedicated_to == record.name:
            raise FailedPreconditionError(
                f"{pool.pool.name} is dedicated to the tenant", reason=Reason.RESOURCE_IN_USE
            )


def _owned(state: State, tenant_uid: str) -> list[Expect]:
    """A tenant's adapters and keys, its tenant-admins' keys among them."""
    return [
        Expect(layout.LIVE + key, record.mod_revision)
        for key, record in sorted(state.records.items())
        if (isinstance(record, AdapterRecord) and record.stored.tenant_uid == tenant_uid)
        or (
            isinstance(record, CredentialRecord)
            and tenant_uid in {record.stored.tenant_uid, record.stored.role_tenant_uid}
        )
    ]
