"""Suspends, resumes and deletes tenants."""

from __future__ import annotations

from tenantry.config.v1 import config_admin_service_pb2 as pb
from tenantry.config.v1 import stored_pb2, tenant_pb2

from services.common.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError, Reason
from services.config.admin.edits import Context, Edits
from services.config.admin.tenant_config import find_tenant
from services.config.etcd import keys as etcd_keys
from services.config.etcd.store import Expect, Unchanged
from services.config.intents.change import Change
from services.config.quota.allowances import Allowance
from services.config.rules.free_text import check_reason
from services.config.state.config_state import ConfigState
from services.config.state.etag import require_etag
from services.config.state.operators import NO_TENANT, Operator
from services.config.state.records import AdapterRecord, CredentialRecord, PoolRecord, TenantRecord
from services.config.state.resources import tenant_resource

_ACTIVE, _SUSPENDED = tenant_pb2.TENANT_STATE_ACTIVE, tenant_pb2.TENANT_STATE_SUSPENDED
_BATCH = 48
"""Deletions in one transaction, beside the 64 adapters that a config can name and the tenant's own keys."""


class TenantStateAdmin:
    """The admin RPCs that suspend, resume and delete a tenant."""

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
        # Stopping a tenant in an emergency must not fail because of a concurrent edit of its config.
        return await self._edits.retrying(lambda: self._set_once(request, context, method, state))

    async def _set_once(
        self,
        request: pb.SuspendTenantRequest | pb.ResumeTenantRequest,
        context: Context,
        method: str,
        state: tenant_pb2.TenantState.ValueType,
    ) -> tenant_pb2.Tenant:
        operator, record = self._asked(request, context)
        # A tenant-admin may stop its own tenant in an emergency, but must not undo a stop by the platform.
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
        key = etcd_keys.tenant_key(stored.tenant_uid)
        change = Change(operator, method, record.name, request.reason)
        expected = [Expect(key, record.mod_revision)]
        await self._edits.write(change, expected, {key: stored.SerializeToString()})
        return tenant_resource(find_tenant(self._edits.state, operator, request.name, "name"))

    async def delete(self, request: pb.DeleteTenantRequest, context: Context) -> pb.DeleteTenantResponse:
        """Delete a suspended tenant with its keys and adapters.

        Its wrapped key is deleted too, so that nothing of its config in etcd can be opened any more. A backup still
        holds both. A tombstone keeps its uid and ordinal from being given out again.

        A tenant with many keys is deleted in several revisions. If this ends in between, a suspended tenant with a
        valid config and fewer keys remains; deleting it again goes on from there.
        """
        operator, record = self._asked(request, context)
        operator.require_platform()
        _require_unused(self._edits.state, record)
        if request.validate_only:
            return pb.DeleteTenantResponse(revision=self._edits.state.revision)
        uid = record.stored.tenant_uid
        revision = await self._edits.retrying(lambda: self._delete_once(request, context, uid))
        return pb.DeleteTenantResponse(revision=revision)

    async def _delete_once(self, request: pb.DeleteTenantRequest, context: Context, uid: str) -> int:
        operator, record = self._asked(request, context)
        if record.stored.tenant_uid != uid:
            # It was deleted meanwhile, and another tenant has its name.
            raise NotFoundError(NO_TENANT)
        state = self._edits.state
        _require_unused(state, record)
        change = Change(operator, "DeleteTenant", record.name, request.reason, {"tenant_uid": uid})
        tenant_key = etcd_keys.tenant_key(uid)
        unchanged = Expect(tenant_key, record.mod_revision)
        loose, bound = _owned(state, record)
        while len(loose) > _BATCH:
            batch, loose = loose[:_BATCH], loose[_BATCH:]
            await self._edits.write(change, [unchanged, *batch], {}, [condition.key for condition in batch])
        tombstone = stored_pb2.StoredTombstone(
            tenant_id=record.stored.tenant_id,
            tenant_uid=uid,
            ordinal=record.stored.ordinal,
            delete_time=self._edits.now(),
            operator_key_id=operator.key_id,
        )
        return await self._edits.write(
            change,
            [
                unchanged,
                # Otherwise keys, adapters and pools given to the tenant meanwhile would remain.
                Unchanged(etcd_keys.CREDENTIALS, state.revision),
                Unchanged(etcd_keys.adapters_prefix(uid), state.revision),
                Unchanged(etcd_keys.POOLS, state.revision),
                *loose,
                *bound,
            ],
            {etcd_keys.tombstone_key(uid): tombstone.SerializeToString()},
            [
                tenant_key,
                etcd_keys.tenant_name_key(record.stored.tenant_id),
                *(etcd_keys.quota_key(uid, allowance.key) for allowance in Allowance),
                *(item.key for item in (*loose, *bound)),
            ],
        )

    def _asked(
        self,
        request: pb.SuspendTenantRequest | pb.ResumeTenantRequest | pb.DeleteTenantRequest,
        context: Context,
    ) -> tuple[Operator, TenantRecord]:
        operator = self._edits.operator(context, request)
        record = find_tenant(self._edits.state, operator, request.name, "name")
        if request.etag:
            require_etag(request.etag, record.mod_revision, "etag")
        wrong = check_reason(request.reason)
        if wrong:
            raise InvalidArgumentError(wrong)
        return operator, record


def _require_unused(state: ConfigState, record: TenantRecord) -> None:
    if record.stored.state != _SUSPENDED:
        raise FailedPreconditionError(
            "suspend the tenant first: deleting cannot be undone", reason=Reason.RESOURCE_IN_USE
        )
    for pool in state.under("pools/"):
        if isinstance(pool, PoolRecord) and pool.pool.dedicated_to == record.name:
            raise FailedPreconditionError(
                f"{pool.pool.name} is dedicated to the tenant", reason=Reason.RESOURCE_IN_USE
            )


def _owned(state: ConfigState, tenant: TenantRecord) -> tuple[list[Expect], list[Expect]]:
    """A tenant's keys, its tenant-admins' keys and its adapters; separately, the adapters that its config names.

    Those are deleted together with the tenant, since routers refuse a config that names a missing adapter.
    """
    uid, named = tenant.stored.tenant_uid, {alias.adapter for alias in tenant.config.models}
    loose: list[Expect] = []
    bound: list[Expect] = []
    for record in state.under("credentials/"):
        if isinstance(record, CredentialRecord) and uid in {
            record.stored.tenant_uid,
            record.stored.role_tenant_uid,
        }:
            key_id = record.stored.key.name.rsplit("/", 1)[1]
            loose.append(Expect(etcd_keys.credential_key(key_id), record.mod_revision))
    for record in state.under(f"adapters/{uid}/"):
        if isinstance(record, AdapterRecord):
            adapter_id = record.stored.adapter_id
            condition = Expect(etcd_keys.adapter_key(uid, adapter_id), record.mod_revision)
            (bound if adapter_id in named else loose).append(condition)
    return loose, bound
