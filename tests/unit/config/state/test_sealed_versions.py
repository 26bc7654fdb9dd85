"""A version opens only where it was written and as it was written; everything else is refused and named."""

from __future__ import annotations

import pytest
from tenantry.config.v1 import config_admin_service_pb2 as pb
from tenantry.config.v1 import stored_pb2, tenant_pb2

from services.common.errors import InternalError
from services.config.etcd import keys as etcd_keys
from services.config.state import sealed_versions
from services.config.state.sealing import SealError, TenantKeys
from tests.fakes.config_plane import ConfigPlane
from tests.fakes.mutants import replaced, without

KEY, _ = TenantKeys(b"r" * 32).create("u")


@pytest.fixture
async def plane(tmp_path):
    plane = ConfigPlane(tmp_path)
    await plane.new_model()
    await plane.new_pool()
    await plane.new_tenant("acme", system_prompt="1")
    for number in range(2, 8):
        tenant = await plane.call("GetTenant", pb.GetTenantRequest(name="tenants/acme"))
        tenant.config.system_prompt = str(number)
        await plane.call("UpdateTenant", pb.UpdateTenantRequest(tenant=tenant, reason=f"because {number}"))
    return plane


def key_of(plane, number):
    return etcd_keys.version_key(plane.current.state.tenant("acme").stored.tenant_uid, number)


async def stored(plane, number):
    return stored_pb2.StoredVersion.FromString((await plane.store.get(key_of(plane, number))).value)


async def read(plane, number):
    name = f"tenants/acme/versions/{number}"
    return await plane.call("GetTenantVersion", pb.GetTenantVersionRequest(name=name))


async def test_every_version_opens_in_its_place(plane):
    for number in range(2, 8):
        version = await read(plane, number)
        assert (version.config.system_prompt, version.reason) == (str(number), f"because {number}")


async def exchanged(plane, what):
    """Version 7, with a part of version 3 in it."""
    three, seven = await stored(plane, 3), await stored(plane, 7)
    if what == "everything":
        return three
    for name in {"body": ["sealed_config"], "body and digest": ["sealed_config", "config_sha256"]}.get(
        what, [what]
    ):
        setattr(seven, name, getattr(three, name))
    return seven


@pytest.mark.parametrize("what", ["everything", "body", "body and digest", "sealed_reason"])
async def test_what_was_written_elsewhere_is_refused_and_named(plane, what, caplog):
    changed = await exchanged(plane, what)
    plane.store.put({key_of(plane, 7): changed.SerializeToString()})
    with pytest.raises(InternalError, match="version 7 is not what was written"):
        await read(plane, 7)
    with pytest.raises(InternalError):
        await plane.call("ListTenantVersions", pb.ListTenantVersionsRequest(parent="tenants/acme"))
    with pytest.raises(InternalError):
        await plane.call("RollbackTenant", pb.RollbackTenantRequest(name="tenants/acme", version=7))
    assert "ALARM: version 7 of tenants/acme is not what was written" in caplog.text
    assert (await read(plane, 6)).config.system_prompt == "6"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("operator", "operators/eve"),
        ("operator_key_id", "f" * 16),
        ("rollback_of", 2),
        ("sealed_reason", b""),
    ],
)
async def test_who_wrote_a_version_and_why_cannot_be_exchanged(plane, field, value):
    changed = await stored(plane, 7)
    setattr(changed, field, value)
    plane.store.put({key_of(plane, 7): changed.SerializeToString()})
    with pytest.raises(InternalError):
        await read(plane, 7)


def version(module, number, prompt):
    made = stored_pb2.StoredVersion(config_version=number)
    module.seal_version(made, tenant_pb2.TenantConfig(system_prompt=prompt), f"because {number}", KEY)
    return made


def prompt_of_seven_with_the_body_of_three(module):
    three, seven = version(module, 3, "three"), version(module, 7, "seven")
    seven.sealed_config, seven.config_sha256 = three.sealed_config, three.config_sha256
    return module.open_version(seven, 7, KEY)[0].system_prompt


def test_another_versions_body_does_not_open():
    with pytest.raises(SealError):
        prompt_of_seven_with_the_body_of_three(sealed_versions)


def test_that_test_notices_bodies_that_are_bound_to_nothing():
    unbound = replaced(sealed_versions, "_record", lambda _version: b"")
    assert prompt_of_seven_with_the_body_of_three(unbound) == "three"


def open_with_another_digest(module):
    stored_tenant = stored_pb2.StoredTenant(config_version=1)
    module.seal_in_force(stored_tenant, tenant_pb2.TenantConfig(weight=1), KEY)
    stored_tenant.config_sha256 = "0" * 64
    return module.open_in_force(stored_tenant, KEY).weight


def test_a_config_whose_digest_is_not_the_one_answers_name_is_refused():
    with pytest.raises(SealError):
        open_with_another_digest(sealed_versions)


def test_that_test_notices_a_digest_nobody_checks():
    unchecked = without(sealed_versions, "config-has-its-digest")
    assert open_with_another_digest(unchecked) == 1


def test_a_version_of_the_history_does_not_open_as_the_config_in_force():
    older = version(sealed_versions, 3, "three")
    in_force = stored_pb2.StoredTenant(
        config_version=3, config_sha256=older.config_sha256, sealed_config=older.sealed_config
    )
    with pytest.raises(SealError):
        sealed_versions.open_in_force(in_force, KEY)
