"""The config service as a process over a real etcd: admin RPCs, discovery, and what etcd holds."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path

import grpc
import pytest
from google.protobuf import field_mask_pb2
from tenantry.config.v1 import adapter_pb2, credential_pb2, pool_pb2, tenant_pb2
from tenantry.config.v1 import config_admin_service_pb2 as admin_pb
from tenantry.config.v1 import config_admin_service_pb2_grpc as admin_rpc
from tenantry.config.v1 import config_discovery_service_pb2 as discovery_pb
from tenantry.config.v1 import config_discovery_service_pb2_grpc as discovery_rpc

from services.common.artifacts import DirectoryArtifactStore
from services.common.grpc_channel import open_channel
from services.common.sealed_artifact import artifact_associated_data, open_sealed
from tests.fakes.etcd_process import EtcdProcess
from tests.fakes.service_process import ServiceProcess
from tests.integration.mesh_access import bearer, failure_of

pytestmark = pytest.mark.integration
ADAPTER = Path(__file__).parents[2] / "demo_adapters" / "pirate"
CANARY = "quokka-canary-prompt-0451"


class Plane:
    """A config service with its etcd, and stubs of both its listeners."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.etcd = EtcdProcess(folder / "etcd")
        self.artifacts = DirectoryArtifactStore(folder / "artifacts")

    async def __aenter__(self):
        await self.etcd.start()
        admin, discovery = f"unix:{self.folder}/a.sock", f"unix:{self.folder}/d.sock"
        settings = {
            "TENANTRY_CONFIG_ADMIN_LISTEN": admin,
            "TENANTRY_CONFIG_DISCOVERY_LISTEN": discovery,
            "TENANTRY_CONFIG_ETCD_TARGET": self.etcd.target,
            "TENANTRY_CONFIG_STATE_DIR": str(self.folder / "state"),
            "TENANTRY_CONFIG_ARTIFACT_DIR": str(self.folder / "artifacts"),
        }
        self.service = ServiceProcess("services.config", settings, admin, self.folder / "config.log")
        await self.service.start()
        self.channels = [open_channel(admin), open_channel(discovery)]
        self.admin = admin_rpc.ConfigAdminServiceStub(self.channels[0])
        self.discovery = discovery_rpc.ConfigDiscoveryServiceStub(self.channels[1])
        self.operator = (self.folder / "state" / "operator.key").read_text().strip()
        return self

    async def __aexit__(self, *_):
        for channel in self.channels:
            await channel.close()
        await self.service.kill()
        await self.etcd.kill()

    async def call(self, method, request, key=None, timeout_seconds=10):
        return await getattr(self.admin, method)(
            request, metadata=bearer(key or self.operator), timeout=timeout_seconds
        )

    async def with_catalog(self):
        digest = self.artifacts.put(b"{}")
        model = pool_pb2.BaseModel(
            weights_sha256="a" * 64,
            tokenizer_sha256=digest,
            chat_template_sha256=digest,
            context_tokens=2048,
            end_token_id=2,
            pad_token_id=2,
            architecture=pool_pb2.Architecture(
                layers=30, hidden=576, heads=9, kv_heads=3, head_dim=64, mlp=1536, vocabulary=49152
            ),
        )
        await self.call(
            "CreateBaseModel", admin_pb.CreateBaseModelRequest(base_model_id="m", base_model=model)
        )
        pool = pool_pb2.Pool(
            base_model="models/m",
            dialect=adapter_pb2.DIALECT_TRTLLM_ENGINE,
            server_model="tensorrt_llm",
            endpoints=[pool_pb2.Endpoint(target="127.0.0.1:1")],
            capacity=pool_pb2.Capacity(
                concurrent_requests=4, adapters=4, adapter_rank=8, kv_tokens=1000, queued_requests=9
            ),
            engine_sha256="b" * 64,
            adapter_dtype="float16",
            adapter_config_columns=3,
        )
        await self.call("CreatePool", admin_pb.CreatePoolRequest(pool_id="p", pool=pool))

    async def new_tenant(self, tenant_id, prompt=""):
        config = tenant_pb2.TenantConfig(
            models=[tenant_pb2.ModelAlias(alias="default", base_model="models/m")], system_prompt=prompt
        )
        request = admin_pb.CreateTenantRequest(tenant_id=tenant_id, tenant=tenant_pb2.Tenant(config=config))
        return await self.call("CreateTenant", request)

    def register(self, tenant_id, adapter_id="pirate", key=None):
        async def pieces():
            yield admin_pb.RegisterAdapterRequest(
                header=admin_pb.AdapterHeader(
                    parent=f"tenants/{tenant_id}", adapter_id=adapter_id, base_model="models/m"
                )
            )
            for path in sorted(ADAPTER.glob("adapter_*")):
                data = path.read_bytes()
                for start in range(0, len(data), 1 << 20):
                    chunk = admin_pb.FileChunk(file=path.name, data=data[start : start + (1 << 20)])
                    yield admin_pb.RegisterAdapterRequest(chunk=chunk)

        return self.admin.RegisterAdapter(pieces(), metadata=bearer(key or self.operator), timeout=30)


class Router:
    """Follows discovery as a router would; keeps what it was told."""

    def __init__(self, plane: Plane, refuse: bool = False) -> None:
        self._call = plane.discovery.StreamSnapshots()
        self._refuse = refuse
        self.resources: dict[str, discovery_pb.Resource] = {}
        self.kinds: list[int] = []
        self.heartbeats = 0
        self.largest_bytes = 0

    async def until(self, condition):
        if not self.kinds:
            hello = discovery_pb.RouterHello(router="r1")
            await self._call.write(discovery_pb.StreamSnapshotsRequest(hello=hello))
        pieces: list[discovery_pb.SnapshotChunk] = []
        async with asyncio.timeout(20):
            while not condition(self):
                message = await self._call.read()
                self.largest_bytes = max(self.largest_bytes, message.ByteSize())
                if message.HasField("heartbeat"):
                    self.heartbeats += 1
                    continue
                pieces.append(message.chunk)
                if message.chunk.last:
                    await self._take(pieces)
                    pieces = []

    async def _take(self, pieces):
        self.kinds.append(pieces[0].kind)
        if self._refuse:
            nack = discovery_pb.SnapshotNack(
                nonce=pieces[0].nonce, revision=pieces[0].revision, reasons=["no"]
            )
            await self._call.write(discovery_pb.StreamSnapshotsRequest(nack=nack))
            return
        if pieces[0].kind == discovery_pb.SNAPSHOT_KIND_FULL:
            self.resources = {}
        for piece in pieces:
            for key in piece.removed:
                del self.resources[key]
            self.resources.update({resource.key: resource for resource in piece.resources})
        ack = discovery_pb.SnapshotAck(nonce=pieces[0].nonce, revision=pieces[0].revision)
        await self._call.write(discovery_pb.StreamSnapshotsRequest(ack=ack))

    def close(self):
        self._call.cancel()


@pytest.fixture
async def plane(tmp_path_factory):
    async with Plane(tmp_path_factory.mktemp("p")) as running:
        await running.with_catalog()
        yield running


async def test_a_tenants_life_reaches_a_following_router(plane):
    router = Router(plane)
    try:
        await router.until(lambda r: "pools/p" in r.resources)
        created = await plane.new_tenant("acme", CANARY)
        assert (created.config_version, created.ordinal) == (1, 1)
        key = f"tenants/{created.tenant_uid}"
        await router.until(lambda r: key in r.resources)
        assert router.resources[key].tenant.config.system_prompt == CANARY
        created.config.system_prompt = "changed"
        updated = await plane.call("UpdateTenant", admin_pb.UpdateTenantRequest(tenant=created))
        assert updated.config_version == 2
        await router.until(lambda r: r.resources[key].tenant.config_version == 2)
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
    failure = await failure_of(plane.call("UpdateTenant", admin_pb.UpdateTenantRequest(tenant=tenant)))
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
    read = await plane.call("GetTenant", admin_pb.GetTenantRequest(name="tenants/acme"))
    assert read.config.weight == 0
    router = Router(plane)
    await router.until(lambda r: f"tenants/{tenant.tenant_uid}" in r.resources)
    router.close()
    await plane.etcd.start()
    async with asyncio.timeout(15):
        while True:
            with contextlib.suppress(grpc.RpcError):
                await plane.call("UpdateTenant", admin_pb.UpdateTenantRequest(tenant=tenant))
                break


async def test_a_refused_snapshot_is_not_sent_again_and_large_ones_come_in_pieces(plane):
    for number in range(20):
        await plane.new_tenant(f"t{number}", json.dumps("x" * 16_000))
    before = Router(plane, refuse=True)
    await before.until(lambda r: len(r.kinds) == 1)
    await before.until(lambda r: r.heartbeats >= 3)
    assert len(before.kinds) == 1
    await plane.new_tenant("one-more")
    await before.until(lambda r: len(r.kinds) == 2)
    assert before.kinds[1] == discovery_pb.SNAPSHOT_KIND_FULL
    before.close()


async def test_a_restart_keeps_everything(plane):
    tenant = await plane.new_tenant("acme", CANARY)
    await plane.service.kill()
    await plane.service.start()
    again = await plane.call("GetTenant", admin_pb.GetTenantRequest(name="tenants/acme"))
    assert again == tenant
