"""Deleting a tenant during other edits, and in part; over a store in memory."""

from __future__ import annotations

import pytest
from tenantry.config.v1 import config_admin_service_pb2 as pb
from tenantry.config.v1 import credential_pb2, pool_pb2, stored_pb2

from services.common.errors import AbortedError, NotFoundError
from services.config.adapters.peft import WEIGHTS_FILE
from services.config.adapters.peft_config import CONFIG_FILE
from services.config.admin import tenant_state
from services.config.etcd import keys as etcd_keys
from services.config.etcd.store import StoreUnavailableError
from tests.fakes.config_plane import ConfigPlane
from tests.fakes.peft_files import peft_files

ACME = "tenants/acme"
DELETE = pb.DeleteTenantRequest(name=ACME)


@pytest.fixture
async def plane(tmp_path):
    plane = ConfigPlane(tmp_path)
    await plane.new_model()
    await plane.new_pool()
    await plane.new_tenant("acme")
    return plane


async def suspend(plane):
    await plane.call("SuspendTenant", pb.SuspendTenantRequest(name=ACME))


def uid(plane):
    return plane.current.state.tenant("acme").stored.tenant_uid


def come_in(plane, action, after=0):
    """Let another writer in before a later write."""
    left = [after]

    def step():
        if left[0] == 0:
            plane.store.before_write = lambda: None
            action()
        left[0] -= 1

    plane.store.before_write = step


def take_away(plane):
    """Delete the tenant as another config service would."""
    tenant_uid = uid(plane)
    plane.store.put(
        {etcd_keys.tombstone_key(tenant_uid): b""},
        [etcd_keys.tenant_key(tenant_uid), etcd_keys.tenant_name_key("acme")],
    )


def left_of(plane, tenant_uid):
    def owner(record):
        return {getattr(record.stored, field, "") for field in ("tenant_uid", "role_tenant_uid")}

    return [
        key
        for key, record in plane.current.state.records.items()
        if hasattr(record, "stored") and tenant_uid in owner(record)
    ]


def files():
    config, weights, _ = peft_files()
    return [(CONFIG_FILE, config), (WEIGHTS_FILE, weights)]


def issue(plane, tenant_uid):
    """Create a key as another config service would."""
    key = credential_pb2.Key(name=f"{ACME}/keys/0123456789abcdef")
    stored = stored_pb2.StoredCredential(key=key, tenant_uid=tenant_uid)
    plane.store.put({etcd_keys.credential_key("0123456789abcdef"): stored.SerializeToString()})


async def deletes_while_a_key_is_made(plane):
    await suspend(plane)
    tenant_uid = uid(plane)
    come_in(plane, lambda: issue(plane, tenant_uid))
    await plane.call("DeleteTenant", DELETE)
    return left_of(plane, tenant_uid)


async def test_a_key_made_while_the_tenant_is_deleted_goes_with_it(plane):
    assert await deletes_while_a_key_is_made(plane) == []


async def test_mutant_that_does_not_look_for_new_keys_leaves_one(plane):
    plane.store.ignored_prefixes.add(etcd_keys.CREDENTIALS)
    assert await deletes_while_a_key_is_made(plane)


async def test_nothing_is_made_for_a_tenant_that_is_gone(plane):
    tenant_uid = uid(plane)
    alice = credential_pb2.Key(role=credential_pb2.OPERATOR_ROLE_TENANT_ADMIN, role_tenant=ACME)
    come_in(plane, lambda: take_away(plane))
    with pytest.raises(NotFoundError):
        await plane.call("CreateKey", pb.CreateKeyRequest(parent="operators/alice", key=alice))
    await plane.new_tenant("acme")
    come_in(plane, lambda: take_away(plane))
    with pytest.raises(NotFoundError):
        await plane.call("CreateKey", pb.CreateKeyRequest(parent=ACME))
    await plane.new_tenant("acme")
    come_in(plane, lambda: take_away(plane))
    with pytest.raises(NotFoundError):
        await plane.register("acme", files())
    assert left_of(plane, tenant_uid) == []


async def test_a_pool_is_not_dedicated_to_a_tenant_that_is_gone(plane):
    come_in(plane, lambda: take_away(plane))
    with pytest.raises(AbortedError):
        await plane.new_pool("own", dedicated_to=ACME)
    await plane.new_tenant("acme")
    pool = await plane.call("GetPool", pb.GetPoolRequest(name="pools/p"))
    pool.dedicated_to = ACME
    come_in(plane, lambda: take_away(plane))
    with pytest.raises(AbortedError):
        await plane.call("UpdatePool", pb.UpdatePoolRequest(pool=pool))


async def test_a_tenant_that_is_given_a_pool_meanwhile_is_not_deleted(plane):
    await suspend(plane)
    pool = (await plane.new_pool("own")).name
    owned = pool_pb2.Pool()
    owned.CopyFrom(plane.current.state.pool(pool).pool)
    owned.dedicated_to = ACME
    come_in(plane, lambda: plane.store.put({etcd_keys.pool_key("own"): owned.SerializeToString()}))
    with pytest.raises(Exception, match="dedicated"):
        await plane.call("DeleteTenant", DELETE)
    assert plane.current.state.tenant("acme") is not None


async def with_an_alias_of_an_adapter(plane):
    await plane.register("acme", files())
    tenant = await plane.call("GetTenant", pb.GetTenantRequest(name=ACME))
    tenant.config.models.add(alias="sea", base_model="models/m", adapter="sea")
    await plane.call("UpdateTenant", pb.UpdateTenantRequest(tenant=tenant))
    for _ in range(70):
        await plane.call("CreateKey", pb.CreateKeyRequest(parent=ACME))


async def test_a_deletion_that_ends_half_way_leaves_a_config_that_holds_and_goes_on_when_asked_again(plane):
    await with_an_alias_of_an_adapter(plane)
    await suspend(plane)
    tenant_uid = uid(plane)

    def fail():
        raise StoreUnavailableError("the config store does not answer")

    come_in(plane, fail, after=1)
    with pytest.raises(StoreUnavailableError):
        await plane.call("DeleteTenant", DELETE)
    state = plane.current.state
    assert state.adapter(tenant_uid, "sea") is not None, "the config names it: no router could apply the rest"
    assert state.tenant("acme").stored.state == tenant_state._SUSPENDED
    assert 0 < len(left_of(plane, tenant_uid)) < 70
    await plane.call("DeleteTenant", DELETE)
    assert left_of(plane, tenant_uid) == []


async def test_a_config_does_not_come_to_name_an_adapter_that_is_being_deleted(plane):
    await plane.register("acme", files())
    tenant = await plane.call("GetTenant", pb.GetTenantRequest(name=ACME))
    tenant.config.models.add(alias="sea", base_model="models/m", adapter="sea")
    come_in(plane, lambda: plane.store.put({}, [etcd_keys.adapter_key(tenant.tenant_uid, "sea")]))
    with pytest.raises(AbortedError):
        await plane.call("UpdateTenant", pb.UpdateTenantRequest(tenant=tenant))


async def test_an_edit_in_between_does_not_hold_up_a_suspension(plane):
    stored = plane.current.state.tenant("acme").stored.SerializeToString()
    come_in(plane, lambda: plane.store.put({etcd_keys.tenant_key(uid(plane)): stored}))
    await suspend(plane)
    assert plane.current.state.tenant("acme").stored.state == tenant_state._SUSPENDED
    with pytest.raises(AbortedError):
        await plane.call("SuspendTenant", pb.SuspendTenantRequest(name=ACME, etag='"1"'))
