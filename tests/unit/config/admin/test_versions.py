"""Config versions and a tenant's state, over a store in memory."""

from __future__ import annotations

import json

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from tenantry.config.v1 import config_admin_service_pb2 as pb
from tenantry.config.v1 import credential_pb2, tenant_pb2, tenant_version_pb2

from services.common.errors import (
    AbortedError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
)
from services.config.admin import tenant_config
from tests.fakes.config_plane import Call, ConfigPlane

CANARY = "a-prompt-nobody-else-may-read"


@pytest.fixture
async def plane(tmp_path):
    plane = ConfigPlane(tmp_path)
    await plane.new_model()
    await plane.new_pool()
    return plane


async def prompt(plane, text, name="tenants/acme", **fields):
    tenant = await plane.call("GetTenant", pb.GetTenantRequest(name=name))
    tenant.config.system_prompt = text
    return await plane.call("UpdateTenant", pb.UpdateTenantRequest(tenant=tenant, **fields))


async def versions(plane, **fields):
    return await plane.call(
        "ListTenantVersions", pb.ListTenantVersionsRequest(parent="tenants/acme", **fields)
    )


async def version(plane, number):
    name = f"tenants/acme/versions/{number}"
    return await plane.call("GetTenantVersion", pb.GetTenantVersionRequest(name=name))


async def rollback(plane, number, **fields):
    return await plane.call(
        "RollbackTenant", pb.RollbackTenantRequest(name="tenants/acme", version=number, **fields)
    )


async def tenant_admin(plane, tenant_id):
    key = credential_pb2.Key(
        role=credential_pb2.OPERATOR_ROLE_TENANT_ADMIN, role_tenant=f"tenants/{tenant_id}"
    )
    made = await plane.call("CreateKey", pb.CreateKeyRequest(parent="operators/eve", key=key))
    return Call(made.secret)


class Reads:
    """Counts what is read of the store."""

    def __init__(self, plane, monkeypatch):
        self.keys = []
        get = plane.store.get

        async def counted(key):
            self.keys.append(key)
            return await get(key)

        async def forbidden(prefix):
            raise AssertionError(f"all of {prefix} was read")

        monkeypatch.setattr(plane.store, "get", counted)
        monkeypatch.setattr(plane.store, "list", forbidden)


async def test_a_page_of_versions_reads_what_it_shows(plane, monkeypatch):
    await plane.new_tenant("acme", system_prompt="0")
    for number in range(1, 8):
        await prompt(plane, str(number))
    reads = Reads(plane, monkeypatch)
    first = await versions(plane, page_size=3)
    second = await versions(plane, page_size=3, page_token=first.next_page_token)
    assert [v.version for page in (first, second) for v in page.versions] == [8, 7, 6, 5, 4, 3]
    assert len(reads.keys) == 6
    rest = await versions(plane, page_size=3, page_token=second.next_page_token)
    assert [v.version for v in rest.versions] == [2, 1]
    assert rest.next_page_token == ""


async def test_versions_say_who_when_and_why_newest_first(plane):
    await plane.new_tenant("acme", system_prompt="one")
    await prompt(plane, "two", reason="was too short")
    await prompt(plane, "three")
    listed = await versions(plane, page_size=2)
    assert [(v.version, v.active, v.reason) for v in listed.versions] == [
        (3, True, ""),
        (2, False, "was too short"),
    ]
    assert not listed.versions[0].HasField("config")
    assert listed.versions[1].operator == "operators/first"
    assert listed.versions[1].operator_key_id
    rest = await versions(plane, page_size=2, page_token=listed.next_page_token)
    assert [v.version for v in rest.versions] == [1]
    assert not rest.next_page_token
    assert (await version(plane, 1)).config.system_prompt == "one"


async def test_a_reason_is_sealed_at_rest(plane):
    await plane.new_tenant("acme")
    await prompt(plane, "x", reason=CANARY)
    items, _ = await plane.store.list("")
    assert not any(CANARY.encode() in item.value for item in items.values())


async def test_versions_differ_field_by_field(plane):
    await plane.new_tenant("acme", system_prompt="one", weight=7)
    tenant = await prompt(plane, "two")
    tenant.config.ClearField("weight")
    tenant.config.models.add(alias="second", base_model="models/m")
    await plane.call(
        "UpdateTenant", pb.UpdateTenantRequest(tenant=tenant, update_mask=FieldMask(paths=["config"]))
    )
    request = pb.DiffTenantVersionsRequest(name="tenants/acme", before_version=1)
    found = (await plane.call("DiffTenantVersions", request)).differences
    kinds = tenant_version_pb2.DifferenceKind
    assert [(d.field, kinds.Name(d.kind)) for d in found] == [
        ("models[1].alias", "DIFFERENCE_KIND_ADDED"),
        ("models[1].base_model", "DIFFERENCE_KIND_ADDED"),
        ("system_prompt", "DIFFERENCE_KIND_CHANGED"),
        ("weight", "DIFFERENCE_KIND_REMOVED"),
    ]
    assert (json.loads(found[2].before_json), json.loads(found[2].after_json)) == ("one", "two")
    request.after_version = 1
    assert not (await plane.call("DiffTenantVersions", request)).differences


async def test_a_rollback_is_a_new_version_that_equals_an_old_one(plane):
    first = await plane.new_tenant("acme", system_prompt="one")
    await prompt(plane, "two")
    tried = await rollback(plane, 1, validate_only=True)
    assert tried.config_version == 3
    assert (await versions(plane)).versions[0].version == 2
    back = await rollback(plane, 1, reason="two was worse")
    assert (back.config_version, back.config_sha256) == (3, first.config_sha256)
    newest = await version(plane, 3)
    assert (newest.rollback_of, newest.reason, newest.active) == (1, "two was worse", True)
    assert (await rollback(plane, 1)).config_version == 3, "what is in force already is no change"


async def test_a_rollback_is_checked_like_any_other_config(plane):
    await plane.new_pool("q")
    await plane.new_tenant("acme", pool="pools/q")
    await plane.new_tenant("globex")
    tenant = await plane.call("GetTenant", pb.GetTenantRequest(name="tenants/acme"))
    tenant.config.pool = ""
    await plane.call(
        "UpdateTenant", pb.UpdateTenantRequest(tenant=tenant, update_mask=FieldMask(paths=["config.pool"]))
    )
    pool = await plane.call("GetPool", pb.GetPoolRequest(name="pools/q"))
    pool.dedicated_to = "tenants/globex"
    await plane.call("UpdatePool", pb.UpdatePoolRequest(pool=pool))
    with pytest.raises(InvalidArgumentError) as refused:
        await rollback(plane, 1)
    assert [violation.field for violation in refused.value.violations] == ["version.config.pool"]
    with pytest.raises(NotFoundError):
        await rollback(plane, 9)
    with pytest.raises(AbortedError):
        await rollback(plane, 1, etag='"1"')


async def test_only_the_newest_versions_are_kept(plane, monkeypatch):
    monkeypatch.setattr(tenant_config, "KEPT_VERSIONS", 3)
    await plane.new_tenant("acme")
    for number in range(5):
        await prompt(plane, f"prompt {number}")
    assert [v.version for v in (await versions(plane)).versions] == [6, 5, 4]
    with pytest.raises(NotFoundError):
        await version(plane, 3)


async def test_suspending_and_resuming_keep_the_config(plane):
    tenant = await plane.new_tenant("acme")
    stopped = await plane.call("SuspendTenant", pb.SuspendTenantRequest(name=tenant.name))
    assert stopped.state == tenant_pb2.TENANT_STATE_SUSPENDED
    assert stopped.config_version == tenant.config_version
    again = await plane.call("SuspendTenant", pb.SuspendTenantRequest(name=tenant.name))
    assert again.etag == stopped.etag
    going = await plane.call("ResumeTenant", pb.ResumeTenantRequest(name=tenant.name))
    assert (going.state, going.config) == (tenant_pb2.TENANT_STATE_ACTIVE, tenant.config)


async def test_a_tenant_admin_may_stop_its_tenant_and_not_start_or_delete_it(plane):
    await plane.new_tenant("acme")
    await plane.new_tenant("globex")
    eve = await tenant_admin(plane, "acme")
    await plane.call("SuspendTenant", pb.SuspendTenantRequest(name="tenants/acme"), eve)
    with pytest.raises(PermissionDeniedError):
        await plane.call("ResumeTenant", pb.ResumeTenantRequest(name="tenants/acme"), eve)
    with pytest.raises(PermissionDeniedError):
        await plane.call("DeleteTenant", pb.DeleteTenantRequest(name="tenants/acme"), eve)
    with pytest.raises(NotFoundError) as foreign:
        await plane.call("SuspendTenant", pb.SuspendTenantRequest(name="tenants/globex"), eve)
    with pytest.raises(NotFoundError) as missing:
        await plane.call("SuspendTenant", pb.SuspendTenantRequest(name="tenants/nobody"), eve)
    assert str(foreign.value) == str(missing.value)


async def test_a_deleted_tenant_is_gone_with_all_it_owned_and_never_comes_back_as_itself(plane):
    tenant = await plane.new_tenant("acme", system_prompt=CANARY)
    other = await plane.new_tenant("globex")
    for _ in range(70):
        await plane.call("CreateKey", pb.CreateKeyRequest(parent="tenants/acme"))
    await plane.call("CreateKey", pb.CreateKeyRequest(parent="tenants/globex"))
    await tenant_admin(plane, "acme")
    with pytest.raises(FailedPreconditionError):
        await plane.call("DeleteTenant", pb.DeleteTenantRequest(name="tenants/acme"))
    await plane.call("SuspendTenant", pb.SuspendTenantRequest(name="tenants/acme"))
    await plane.call("DeleteTenant", pb.DeleteTenantRequest(name="tenants/acme", validate_only=True))
    assert plane.current.state.tenant("acme") is not None
    await plane.call("DeleteTenant", pb.DeleteTenantRequest(name="tenants/acme"))
    state = plane.current.state
    assert state.tenant("acme") is None
    assert not [key for key in state.records if tenant.tenant_uid in key]
    assert len([key for key in state.records if key.startswith("credentials/")]) == 2, "first and globex's"
    assert state.tenant("globex").stored.tenant_uid == other.tenant_uid
    again = await plane.new_tenant("acme")
    assert again.tenant_uid != tenant.tenant_uid
    assert again.ordinal > other.ordinal > tenant.ordinal
    assert [v.version for v in (await versions(plane)).versions] == [1]


async def test_a_tenant_with_a_pool_of_its_own_is_not_deleted(plane):
    await plane.new_tenant("acme")
    await plane.new_pool("own", dedicated_to="tenants/acme")
    await plane.call("SuspendTenant", pb.SuspendTenantRequest(name="tenants/acme"))
    with pytest.raises(FailedPreconditionError):
        await plane.call("DeleteTenant", pb.DeleteTenantRequest(name="tenants/acme"))


async def test_reasons_have_a_limit(plane):
    await plane.new_tenant("acme")
    with pytest.raises(InvalidArgumentError) as refused:
        await prompt(plane, "x", reason="y" * 513)
    assert [violation.field for violation in refused.value.violations] == ["reason"]
