"""The config service as a process over a real etcd: admin RPCs, discovery, and what etcd holds."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time

import grpc
import pytest
from google.protobuf import field_mask_pb2
from tenantry.audit.v1 import entry_pb2
from tenantry.config.v1 import config_admin_service_pb2 as admin_pb
from tenantry.config.v1 import config_discovery_service_pb2 as discovery_pb
from tenantry.config.v1 import credential_pb2, tenant_pb2

from services.common.sealed_artifact import artifact_associated_data, open_sealed
from tests.fakes.config_service import ADAPTER, ConfigServicePlane, RouterFollower
from tests.fakes.patience import promised
from tests.integration.mesh_access import failure_of

pytestmark = pytest.mark.integration
CANARY = "quokka-canary-prompt-0451"


@pytest.fixture
async def plane(tmp_path_factory):
    async with ConfigServicePlane(tmp_path_factory.mktemp("p")) as running:
        await running.with_catalog()
        yield running


async def test_a_tenants_life_reaches_a_following_router(plane):
    router = RouterFollower(plane.discovery)
    try:
        await router.until(lambda r: "pools/p" in r.resources)
        created = await plane.new_tenant("acme", CANARY)
        assert (created.config_version, created.ordinal) == (1, 1)
        key = f"tenants/{created.tenant_uid}"
        await router.until(lambda r: key in r.resources)
        assert router.resources[key].tenant.config.system_prompt == CANARY
        created.config.system_prompt = "changed"
        started = time.monotonic()
        updated = await plane.call("UpdateTenant", admin_pb.UpdateTenantRequest(tenant=created))
        assert updated.config_version == 2
        await router.until(lambda r: r.resources[key].tenant.config_version == 2)
        assert time.monotonic() - started < promised(1.0)
        adapter = await plane.register("acme")
        rendition = adapter.versions[0].renditions[0]
        assert rendition.lora_id >> 40 == created.ordinal
        await router.until(lambda r: f"adapters/{created.tenant_uid}/pirate" in r.resources)
        shown = router.resources[f"adapters/{created.tenant_uid}/pirate"].adapter
        sealed = plane.artifacts.read(rendition.artifact_sha256)
        place = artifact_associated_data(created.tenant_uid, rendition.sha256)
        assert len(open_sealed(shown.artifact_key, place, sealed)) == rendition.size_bytes
        issued = await plane.call("CreateKey", admin_pb.CreateKeyRequest(parent="tenants/acme"))
        key_id = issued.key.name.rsplit("/", 1)[1]
        await router.until(lambda r: f"credentials/{key_id}" in r.resources)
        await plane.call("RevokeKey", admin_pb.RevokeKeyRequest(name=issued.key.name))
        revoked = credential_pb2.KEY_STATE_REVOKED
        await router.until(lambda r: r.resources[f"credentials/{key_id}"].credential.key.state == revoked)
        kinds = set(router.kinds[1:])
        assert kinds == {discovery_pb.SNAPSHOT_KIND_DELTA}
        assert issued.secret not in str(router.resources)
    finally:
        router.close()


async def test_nothing_sensitive_is_in_etcd_logs_or_the_artifact_store(plane):
    tenant = await plane.new_tenant("acme", CANARY)
    tenant.config.models[0].system_prompt = CANARY + "-2"
    await plane.call("UpdateTenant", admin_pb.UpdateTenantRequest(tenant=tenant))
    await plane.register("acme")
    issued = await plane.call("CreateKey", admin_pb.CreateKeyRequest(parent="tenants/acme"))
    weights = (ADAPTER / "adapter_model.safetensors").read_bytes()
    needles = [CANARY.encode(), issued.secret.split(".")[2].encode(), weights[-4096:-4000]]
    for path in plane.folder.rglob("*"):
        if path.is_file() and path.name != "operator.key":
            data = path.read_bytes()
            assert not [needle for needle in needles if needle in data], path


async def test_stale_edits_abort_and_bad_ones_name_every_field(plane):
    tenant = await plane.new_tenant("acme")
    first = tenant_pb2.Tenant.FromString(tenant.SerializeToString())
    tenant.config.weight = 7
    await plane.call("UpdateTenant", admin_pb.UpdateTenantRequest(tenant=tenant))
    first.config.weight = 8
    failure = await failure_of(plane.call("UpdateTenant", admin_pb.UpdateTenantRequest(tenant=first)))
    assert (failure.code, failure.reason) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    now = await plane.call("GetTenant", admin_pb.GetTenantRequest(name="tenants/acme"))
    assert now.config.weight == 7
    bad = tenant_pb2.Tenant.FromString(now.SerializeToString())
    bad.config.models[0].base_model, bad.config.weight = "models/none", -1
    failure = await failure_of(plane.call("UpdateTenant", admin_pb.UpdateTenantRequest(tenant=bad)))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.fields() == {"tenant.config.models[0].base_model", "tenant.config.weight"}
    mask = field_mask_pb2.FieldMask(paths=["config.weight"])
    dry = admin_pb.UpdateTenantRequest(tenant=now, update_mask=mask, validate_only=True)
    dry.tenant.config.weight = 9
    assert (await plane.call("UpdateTenant", dry)).config.weight == 9
    assert (await plane.call("GetTenant", admin_pb.GetTenantRequest(name="tenants/acme"))) == now


async def test_ordinals_and_ids_never_repeat_under_concurrency(plane):
    async def create(number):
        while True:
            try:
                return await plane.new_tenant(f"t{number}")
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.ABORTED:
                    raise

    tenants = await asyncio.gather(*(create(number) for number in range(12)))
    assert sorted(tenant.ordinal for tenant in tenants) == list(range(1, 13))
    ids = []
    for name in ("one", "two"):
        adapter = await plane.register("t0", name)
        ids += [rendition.lora_id for v in adapter.versions for rendition in v.renditions]
    again = await plane.register("t0", "one")
    ids.append(again.versions[-1].renditions[0].lora_id)
    assert len(set(ids)) == 3


async def test_a_tenant_admin_is_confined_to_its_tenant(plane):
    await plane.new_tenant("acme")
    await plane.new_tenant("globex", CANARY)
    request = admin_pb.CreateKeyRequest(
        parent="operators/alice",
        key=credential_pb2.Key(role=credential_pb2.OPERATOR_ROLE_TENANT_ADMIN, role_tenant="tenants/acme"),
    )
    alice = (await plane.call("CreateKey", request)).secret
    listed = await plane.call("ListTenants", admin_pb.ListTenantsRequest(), key=alice)
    assert [tenant.name for tenant in listed.tenants] == ["tenants/acme"]
    foreign, missing = [
        await failure_of(plane.call("GetTenant", admin_pb.GetTenantRequest(name=name), key=alice))
        for name in ("tenants/globex", "tenants/nobody")
    ]
    assert foreign.code is grpc.StatusCode.NOT_FOUND
    assert foreign.status.SerializeToString() == missing.status.SerializeToString()
    for method, body in (
        ("CreateTenant", admin_pb.CreateTenantRequest(tenant_id="mine")),
        ("ListPools", admin_pb.ListPoolsRequest()),
        ("CreateKey", request),
    ):
        failure = await failure_of(plane.call(method, body, key=alice))
        assert failure.code is grpc.StatusCode.PERMISSION_DENIED
    stolen = plane.register("globex", key=alice)
    assert (await failure_of(stolen)).code is grpc.StatusCode.NOT_FOUND


async def test_without_etcd_reads_go_on_edits_fail_and_both_come_back(plane):
    tenant = await plane.new_tenant("acme")
    await plane.etcd.kill()
    tenant.config.weight = 3
    started = time.monotonic()
    failure = await failure_of(plane.call("UpdateTenant", admin_pb.UpdateTenantRequest(tenant=tenant)))
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
    assert time.monotonic() - started < promised(3.0)
    read = await plane.call("GetTenant", admin_pb.GetTenantRequest(name="tenants/acme"))
    assert read.config.weight == 0
    router = RouterFollower(plane.discovery)
    await router.until(lambda r: f"tenants/{tenant.tenant_uid}" in r.resources)
    router.close()
    await plane.etcd.start()
    async with asyncio.timeout(15):
        while True:
            with contextlib.suppress(grpc.RpcError):
                await plane.call("UpdateTenant", admin_pb.UpdateTenantRequest(tenant=tenant))
                break


async def test_a_refused_snapshot_is_not_sent_again_and_the_next_one_is_whole(plane):
    for number in range(20):
        await plane.new_tenant(f"t{number}", "x" * 16_000)
    before = RouterFollower(plane.discovery, refuse=True)
    await before.until(lambda r: len(r.kinds) == 1)
    await before.until(lambda r: r.heartbeats >= 3)
    assert len(before.kinds) == 1
    await plane.new_tenant("one-more")
    await before.until(lambda r: len(r.kinds) == 2)
    assert before.kinds[1] == discovery_pb.SNAPSHOT_KIND_FULL
    before.close()


async def test_applied_versions_reach_the_tenants_audit_log(plane):
    tenant = await plane.new_tenant("acme", CANARY)
    tenant.config.weight = 3
    await plane.call("UpdateTenant", admin_pb.UpdateTenantRequest(tenant=tenant))
    await plane.service.end()  # it leaves nothing untold
    told = [entry for entry in plane.audit.entries if entry.tenant_uid == tenant.tenant_uid]
    assert [json.loads(entry.meta_json)["config_version"] for entry in told] == [1, 2]


async def test_every_edit_stands_in_the_operator_log_before_and_after(plane):
    tenant = await plane.new_tenant("acme", CANARY)
    tenant.config.system_prompt = "changed"
    update = admin_pb.UpdateTenantRequest(tenant=tenant, reason="the old one was rude")
    written = await plane.call("UpdateTenant", update)
    await plane.service.end()
    operators = [entry for entry in plane.audit.entries if entry.tenant_uid == "operators"]
    intents = [entry for entry in operators if entry.kind == entry_pb2.ENTRY_KIND_ADMIN_INTENT]
    outcomes = {
        entry.admit_record_id: json.loads(entry.meta_json)
        for entry in operators
        if entry.kind == entry_pb2.ENTRY_KIND_ADMIN_OUTCOME
    }
    last = intents[-1]
    meta = json.loads(last.meta_json)
    assert (meta["method"], meta["resource"], meta["config_version"]) == ("UpdateTenant", "tenants/acme", 2)
    assert json.loads(last.prompt_json) == {"reason": "the old one was rude"}
    assert outcomes[last.record_id] == {"outcome": "written", "revision": written.revision}
    assert {entry.record_id for entry in intents} == set(outcomes)
    assert not any(CANARY.encode() in entry.SerializeToString() for entry in operators)


async def test_without_the_audit_service_nothing_is_edited(plane):
    tenant = await plane.new_tenant("acme")
    await plane.audit_server.stop(None)
    tenant.config.weight = 7
    failure = await failure_of(
        plane.call("UpdateTenant", admin_pb.UpdateTenantRequest(tenant=tenant), timeout_seconds=10)
    )
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "AUDIT_UNAVAILABLE")
    read = await plane.call("GetTenant", admin_pb.GetTenantRequest(name="tenants/acme"))
    assert (read.config_version, read.etag) == (tenant.config_version, tenant.etag)


async def test_a_restart_keeps_everything_and_makes_no_second_operator(plane):
    tenant = await plane.new_tenant("acme", CANARY)
    secret_file = plane.folder / "state" / "operator.key"
    assert secret_file.stat().st_mode & 0o777 == 0o600
    secret_file.unlink()
    await plane.service.end()
    await plane.service.start()
    again = await plane.call("GetTenant", admin_pb.GetTenantRequest(name="tenants/acme"))
    assert again == tenant
    keys = (await plane.call("ListKeys", admin_pb.ListKeysRequest(parent="operators/first"))).keys
    assert len(keys) == 1
    assert not secret_file.exists()


async def test_without_any_platform_admin_a_restart_makes_one(plane):
    keys = (await plane.call("ListKeys", admin_pb.ListKeysRequest(parent="operators/first"))).keys
    await plane.call("RevokeKey", admin_pb.RevokeKeyRequest(name=keys[0].name))
    await plane.service.end()
    await plane.service.start()
    plane.operator = (plane.folder / "state" / "operator.key").read_text().strip()
    keys = (await plane.call("ListKeys", admin_pb.ListKeysRequest(parent="operators/first"))).keys
    assert len(keys) == 2
