"""The admin RPCs over a store in memory: what is written, what is refused, and concurrent writers."""

from __future__ import annotations

import base64
import hashlib

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from tenantry.config.v1 import config_admin_service_pb2 as pb
from tenantry.config.v1 import credential_pb2, pool_pb2

from services.common.audit.writer import EntryKind
from services.common.errors import (
    AbortedError,
    AlreadyExistsError,
    Error,
    InvalidArgumentError,
    Reason,
    UnauthenticatedError,
)
from services.config.etcd import keys as etcd_keys
from services.config.state.resources import key_resource
from services.config.state.sealed_versions import seal_in_force
from tests.fakes.config_plane import Call, ConfigPlane


@pytest.fixture
async def plane(tmp_path):
    plane = ConfigPlane(tmp_path)
    await plane.new_model()
    await plane.new_pool()
    return plane


def once(plane, action):
    """Let another writer in before the next write."""

    def come_in():
        plane.store.before_write = lambda: None
        action()

    plane.store.before_write = come_in


async def test_creations_at_one_moment_get_ordinals_of_their_own(plane):
    once(plane, lambda: plane.store.put({etcd_keys.ordinal_counter_key(): b"41"}))
    assert (await plane.new_tenant("acme")).ordinal == 42
    assert (await plane.new_tenant("globex")).ordinal == 43


async def test_a_name_taken_in_between_is_taken(plane):
    once(plane, lambda: plane.store.put({etcd_keys.tenant_name_key("acme"): b"somebody"}))
    with pytest.raises(AlreadyExistsError):
        await plane.new_tenant("acme")
    assert plane.current.state.tenant("acme") is None


async def takes_a_pool_that_is_dedicated_meanwhile(plane):
    acme, globex = await plane.new_tenant("acme"), await plane.new_tenant("globex")
    pool = plane.current.state.pool("pools/p").pool
    theirs = pool_pb2.Pool(dedicated_to=globex.name)
    theirs.MergeFrom(pool)
    once(plane, lambda: plane.store.put({etcd_keys.pool_key("p"): theirs.SerializeToString()}))
    acme.config.pool = "pools/p"
    await plane.call("UpdateTenant", pb.UpdateTenantRequest(tenant=acme))


async def test_a_pool_dedicated_in_between_is_not_taken(plane):
    with pytest.raises(AbortedError):
        await takes_a_pool_that_is_dedicated_meanwhile(plane)
    assert plane.current.state.tenant("acme").config.pool == ""


async def test_mutant_without_the_condition_shares_a_dedicated_pool(plane):
    plane.store.ignored_prefixes.add(etcd_keys.POOLS)
    await takes_a_pool_that_is_dedicated_meanwhile(plane)
    assert plane.current.state.tenant("acme").config.pool == "pools/p"


async def dedicates_a_pool_that_is_taken_meanwhile(plane):
    await plane.new_pool("for-the-others")
    acme, globex = await plane.new_tenant("acme"), await plane.new_tenant("globex")
    record = plane.current.state.tenant("acme")
    stored = type(record.stored).FromString(record.stored.SerializeToString())
    acme.config.pool = "pools/p"
    seal_in_force(stored, acme.config, record.key)
    once(
        plane, lambda: plane.store.put({etcd_keys.tenant_key(stored.tenant_uid): stored.SerializeToString()})
    )
    pool = await plane.call("GetPool", pb.GetPoolRequest(name="pools/p"))
    pool.dedicated_to = globex.name
    await plane.call("UpdatePool", pb.UpdatePoolRequest(pool=pool))


async def test_a_pool_taken_in_between_is_not_dedicated(plane):
    with pytest.raises(AbortedError):
        await dedicates_a_pool_that_is_taken_meanwhile(plane)
    assert plane.current.state.pool("pools/p").pool.dedicated_to == ""


async def test_mutant_without_the_condition_dedicates_a_taken_pool(plane):
    plane.store.ignored_prefixes.add(etcd_keys.TENANTS)
    await dedicates_a_pool_that_is_taken_meanwhile(plane)
    assert plane.current.state.pool("pools/p").pool.dedicated_to == "tenants/globex"


async def test_every_applied_version_is_told_to_the_audit_log_once(plane):
    tenant = await plane.new_tenant("acme", system_prompt="one")
    tenant.display_name = "Acme"
    tenant = await plane.call("UpdateTenant", pb.UpdateTenantRequest(tenant=tenant))
    tenant.config.system_prompt = "two"
    await plane.call("UpdateTenant", pb.UpdateTenantRequest(tenant=tenant, validate_only=True))
    tenant = await plane.call("UpdateTenant", pb.UpdateTenantRequest(tenant=tenant))
    told = [entry for entry in plane.entries if entry.kind is EntryKind.CONFIG_VERSION]
    assert [entry.meta["config_version"] for entry in told] == [1, 2]
    assert len({entry.record_id for entry in told}) == 2
    last = told[-1]
    assert (last.tenant_uid, last.meta["config_sha256"]) == (tenant.tenant_uid, tenant.config_sha256)
    assert last.prompt["config"]["system_prompt"] == "two"
    exact = base64.b64decode(last.prompt["config_protobuf"])
    assert hashlib.sha256(exact).hexdigest() == tenant.config_sha256
    assert "two" not in str(last.meta)


async def test_validate_only_writes_nothing_anywhere(plane):
    tenant = await plane.new_tenant("acme")
    issued = await plane.call("CreateKey", pb.CreateKeyRequest(parent="tenants/acme"))
    pool = await plane.call("GetPool", pb.GetPoolRequest(name="pools/p"))
    model = await plane.call("GetBaseModel", pb.GetBaseModelRequest(name="models/m"))
    tenant.config.weight, pool.server_model = 5, "other"
    other = pool_pb2.Pool()
    other.CopyFrom(pool)
    other.endpoints[0].target = "q.internal:8001"
    before = await plane.store.list("")
    for method, request in (
        ("CreateTenant", pb.CreateTenantRequest(tenant_id="new", tenant=tenant)),
        ("UpdateTenant", pb.UpdateTenantRequest(tenant=tenant)),
        ("CreateKey", pb.CreateKeyRequest(parent="tenants/acme")),
        ("RevokeKey", pb.RevokeKeyRequest(name=issued.key.name)),
        ("CreatePool", pb.CreatePoolRequest(pool_id="q", pool=other)),
        ("UpdatePool", pb.UpdatePoolRequest(pool=pool)),
        ("CreateBaseModel", pb.CreateBaseModelRequest(base_model_id="n", base_model=model)),
    ):
        request.validate_only = True
        answer = await plane.call(method, request)
        assert "secret" not in type(answer).DESCRIPTOR.fields_by_name or not answer.secret
    assert await plane.store.list("") == before


@pytest.mark.parametrize("method", ["CreateTenant", "UpdateTenant", "CreateKey", "RevokeKey", "CreatePool"])
async def test_an_option_of_a_newer_version_is_refused_not_ignored(plane, method):
    request = getattr(pb, f"{method}Request").FromString(b"\xf8\x3f\x01")
    with pytest.raises(InvalidArgumentError):
        await plane.call(method, request)


async def test_a_config_has_a_size_etcd_and_the_audit_log_can_take(plane):
    tenant = await plane.new_tenant("acme")
    for number in range(20):
        tenant.config.models.add(alias=f"a{number}", base_model="models/m", system_prompt="x" * 16_000)
    with pytest.raises(InvalidArgumentError, match="262144"):
        await plane.call("UpdateTenant", pb.UpdateTenantRequest(tenant=tenant))


async def test_only_good_operators_keys_open_the_admin_service(plane):
    await plane.new_tenant("acme")
    tenants_key = (await plane.call("CreateKey", pb.CreateKeyRequest(parent="tenants/acme"))).secret
    role = credential_pb2.Key(role=credential_pb2.OPERATOR_ROLE_PLATFORM_ADMIN)
    issued = await plane.call("CreateKey", pb.CreateKeyRequest(parent="operators/bob", key=role))
    bob = Call(issued.secret)
    listing = pb.ListTenantsRequest()
    assert len((await plane.call("ListTenants", listing, bob)).tenants) == 1
    await plane.call("RevokeKey", pb.RevokeKeyRequest(name=issued.key.name))
    for caller in (bob, Call(tenants_key), Call("x.y.z"), Call("")):
        with pytest.raises(UnauthenticatedError):
            await plane.call("ListTenants", listing, caller)
    plane.clock.advance(400 * 86_400)
    with pytest.raises(UnauthenticatedError):
        await plane.call("ListTenants", listing)


async def test_a_key_says_who_issued_it_and_why_to_operators_only(plane):
    await plane.new_tenant("acme")
    request = pb.CreateKeyRequest(parent="tenants/acme", reason="for the batch job")
    issued = await plane.call("CreateKey", request)
    [listed] = (await plane.call("ListKeys", pb.ListKeysRequest(parent="tenants/acme"))).keys
    revoked = await plane.call("RevokeKey", pb.RevokeKeyRequest(name=issued.key.name, reason="leaked"))
    for key in (issued.key, listed, revoked):
        assert (key.creator, key.reason) == ("operators/first", "for the batch job")
    record = plane.current.state.credential(issued.key.name.rsplit("/", 1)[1])
    # What routers are sent.
    assert not key_resource(record, "acme").reason


async def test_without_a_store_edits_say_so_and_reads_go_on(plane):
    tenant = await plane.new_tenant("acme")
    plane.store.down = True
    tenant.config.weight = 2
    with pytest.raises(Error) as failure:
        await plane.call("UpdateTenant", pb.UpdateTenantRequest(tenant=tenant))
    assert failure.value.reason is Reason.STORE_UNAVAILABLE
    read = await plane.call("GetTenant", pb.GetTenantRequest(name="tenants/acme"))
    assert not read.config.HasField("weight")


UNKNOWN = b"\xf8\x3f\x01"


@pytest.mark.parametrize(
    ("where", "paths"),
    [
        ("tenant", ["display_name"]),
        ("tenant.config", ["display_name"]),
        ("tenant.config", ["config.system_prompt"]),
        ("tenant.config.models[0]", ["config.system_prompt"]),
    ],
)
async def test_what_this_version_does_not_know_is_refused_though_the_mask_leaves_it_out(plane, where, paths):
    tenant = await plane.new_tenant("acme")
    tenant.display_name, tenant.config.system_prompt = "Acme", "Be kind."
    parts = {
        "tenant": tenant,
        "tenant.config": tenant.config,
        "tenant.config.models[0]": tenant.config.models[0],
    }
    parts[where].MergeFromString(UNKNOWN)
    request = pb.UpdateTenantRequest(tenant=tenant, update_mask=FieldMask(paths=paths))
    with pytest.raises(InvalidArgumentError) as refused:
        await plane.call("UpdateTenant", request)
    assert [violation.field for violation in refused.value.violations] == [where]


@pytest.mark.parametrize("where", ["pool", "pool.capacity"])
async def test_the_same_of_a_pool(plane, where):
    pool = await plane.call("GetPool", pb.GetPoolRequest(name="pools/p"))
    (pool if where == "pool" else pool.capacity).MergeFromString(UNKNOWN)
    request = pb.UpdatePoolRequest(pool=pool, update_mask=FieldMask(paths=["server_model"]))
    with pytest.raises(InvalidArgumentError) as refused:
        await plane.call("UpdatePool", request)
    assert [violation.field for violation in refused.value.violations] == [where]
