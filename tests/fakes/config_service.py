"""The config service as a process, with a real etcd and a scripted audit service; and what follows it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
from tenantry.audit.v1 import audit_append_service_pb2_grpc as audit_rpc
from tenantry.config.v1 import adapter_pb2, pool_pb2, tenant_pb2
from tenantry.config.v1 import config_admin_service_pb2 as admin_pb
from tenantry.config.v1 import config_admin_service_pb2_grpc as admin_rpc
from tenantry.config.v1 import config_discovery_service_pb2 as discovery_pb
from tenantry.config.v1 import config_discovery_service_pb2_grpc as discovery_rpc

from services.common.artifacts import DirectoryArtifactStore
from services.common.rpc.channel import open_channel
from tests.fakes.etcd_process import EtcdProcess
from tests.fakes.scripted_audit import ScriptedAuditService
from tests.fakes.service_process import ServiceProcess
from tests.fakes.tiny_text import CHAT_TEMPLATE, tiny_tokeniser_json
from tests.integration.mesh_access import bearer

ADAPTER = Path(__file__).parents[2] / "demo_adapters" / "pirate"


class ConfigServicePlane:
    """A config service with its etcd, and stubs of both its listeners."""

    def __init__(self, folder: Path, module: str = "services.config") -> None:
        self.folder = folder
        self._module = module
        self.etcd = EtcdProcess(folder / "etcd")
        self.artifacts = DirectoryArtifactStore(folder / "artifacts")

    async def __aenter__(self):
        await self.etcd.start()
        admin, discovery, audit = (f"unix:{self.folder}/{name}.sock" for name in "adu")
        self.audit = ScriptedAuditService()
        self.audit_server = grpc.aio.server()
        audit_rpc.add_AuditAppendServiceServicer_to_server(self.audit, self.audit_server)
        self.audit_server.add_insecure_port(audit)
        await self.audit_server.start()
        settings = {
            "TENANTRY_CONFIG_ADMIN_LISTEN": admin,
            "TENANTRY_CONFIG_DISCOVERY_LISTEN": discovery,
            "TENANTRY_CONFIG_ETCD_TARGET": self.etcd.target,
            "TENANTRY_CONFIG_AUDIT_TARGET": audit,
            "TENANTRY_CONFIG_STATE_DIR": str(self.folder / "state"),
            "TENANTRY_CONFIG_ARTIFACT_DIR": str(self.folder / "artifacts"),
        }
        self.service = ServiceProcess(self._module, settings, admin, self.folder / "config.log")
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
        await self.audit_server.stop(None)
        await self.etcd.kill()

    async def call(self, method, request, key=None, timeout_seconds=10):
        return await getattr(self.admin, method)(
            request, metadata=bearer(key or self.operator), timeout=timeout_seconds
        )

    async def with_base_model(self):
        model = pool_pb2.BaseModel(
            weights_sha256="a" * 64,
            tokenizer_sha256=self.artifacts.put(tiny_tokeniser_json()),
            chat_template_sha256=self.artifacts.put(CHAT_TEMPLATE.encode()),
            context_tokens=32_768,
            end_token_id=2,
            pad_token_id=2,
            architecture=pool_pb2.Architecture(
                layers=30, hidden=576, heads=9, kv_heads=3, head_dim=64, mlp=1536, vocabulary=49152
            ),
        )
        await self.call(
            "CreateBaseModel", admin_pb.CreateBaseModelRequest(base_model_id="m", base_model=model)
        )

    async def with_catalog(self):
        await self.with_base_model()
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


class RouterFollower:
    """Follows discovery as a router would; keeps what it was told."""

    def __init__(self, discovery, refuse: bool = False) -> None:
        self._call = discovery.StreamSnapshots()
        self._refuse = refuse
        self.resources: dict[str, discovery_pb.Resource] = {}
        self.kinds: list[int] = []
        self.heartbeats = 0

    async def until(self, condition):
        if not self.kinds:
            hello = discovery_pb.RouterHello(router="r1")
            await self._call.write(discovery_pb.StreamSnapshotsRequest(hello=hello))
        pieces: list[discovery_pb.SnapshotChunk] = []
        async with asyncio.timeout(20):
            while not condition(self):
                message = await self._call.read()
                if message.HasField("heartbeat"):
                    self.heartbeats += 1
                    continue
                if not message.HasField("chunk"):
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
