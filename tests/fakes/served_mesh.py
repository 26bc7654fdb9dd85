"""Envoy before three routers, a config service over a real etcd, and a scripted Triton: each a process of its own.

Only the audit service is played in the test's own process. Everything stands in one folder, reached through Envoy.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

import grpc
from tenantry.config.v1 import adapter_pb2, pool_pb2, tenant_pb2
from tenantry.config.v1 import config_admin_service_pb2 as admin_pb
from tenantry.inference.v1 import inference_service_pb2_grpc as inference_rpc

from scripts.bench.processes import running
from services.edge.bootstrap import write
from services.edge.spec import EdgeLimits, EdgeSpec, KeySets, Source, Upstream, Upstreams
from services.local import specs
from services.local.certificates import ensure_certificates
from services.local.edge import edge_spec
from services.local.layout import StateLayout, open_layout
from services.local.process import to_logs_only
from services.local.supervisor import Supervisor
from tests.fakes.config_service import ConfigServicePlane
from tests.fakes.ports import own_ports
from tests.fakes.service_process import ServiceProcess
from tests.fakes.tiny_text import CHAT_TEMPLATE, tiny_tokeniser_json
from tests.integration.mesh_access import bearer, question

MODEL = "models/m"
FIRST_TOKEN, VOCABULARY_TOKENS, ANSWER_TOKENS, END_TOKEN = 3, 97, 6, 2
"""The scripted Triton says printable characters of the tiny tokeniser."""
_SCRIPT = (
    f'{{"tokens": {ANSWER_TOKENS}, "first_token": {FIRST_TOKEN}, "vocabulary_tokens": {VOCABULARY_TOKENS}}}'
)
_PLENTY = 1_000_000


class ServedMesh:
    """`async with ServedMesh(folder) as mesh`; tenants are made with `new_tenant` and served at once."""

    def __init__(
        self,
        folder: Path,
        routers: int = 3,
        *,
        router_module: str = "services.router",
        config_module: str = "services.config",
    ) -> None:
        self._folder = folder
        self._router_module = router_module
        self.plane = ConfigServicePlane(folder, config_module)
        self.triton_target = f"unix:{folder}/t.sock"
        self.routers = [self._router(f"r{number}") for number in range(1, routers + 1)]
        self._stack = AsyncExitStack()

    def _router(self, name: str) -> ServiceProcess:
        settings = {
            "ROUTER": name,
            "LISTEN": f"unix:{self._folder}/{name}.sock",
            "CONFIG_TARGET": f"unix:{self._folder}/d.sock",
            "AUDIT_TARGET": f"unix:{self._folder}/u.sock",
            "ARTIFACT_DIR": str(self._folder / "artifacts"),
            "JWKS_PATH": str(self._folder / "state" / "jwks.json"),
            "STATE_DIR": str(self._folder / f"state-{name}"),
        }
        return ServiceProcess(
            self._router_module,
            {f"TENANTRY_ROUTER_{setting}": value for setting, value in settings.items()},
            f"unix:{self._folder}/{name}.sock",
            self._folder / f"{name}.log",
        )

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.plane)
            script = ("--listen", self.triton_target, "--script", _SCRIPT, "--adapter-slots", str(_PLENTY))
            await stack.enter_async_context(
                running(
                    "tests.fakes.scripted_triton", self.triton_target, self._folder / "triton.log", *script
                )
            )
            for router in self.routers:
                stack.push_async_callback(router.kill)
                await router.start(wait_ready=False)
            await self._base_model()
            for router in self.routers:
                await router.ready()
            layout = stack.enter_context(open_layout(self._folder / "s"))
            supervisor = await stack.enter_async_context(Supervisor(layout.logs_dir, to_logs_only, []))
            spec, ca_path = await asyncio.to_thread(self._edge, layout)
            bootstrap = layout.edge_dir / "bootstrap.pb"
            await asyncio.to_thread(write, spec, bootstrap)
            await supervisor.start(specs.envoy(layout, bootstrap)).wait_ready(20)
            credentials = grpc.ssl_channel_credentials(ca_path.read_bytes())
            # Several connections, so that one client process is not what limits.
            self._channels = [
                grpc.aio.secure_channel(
                    f"localhost:{spec.listeners.tenant.port}",
                    credentials,
                    [("grpc.use_local_subchannel_pool", 1)],
                )
                for _ in range(3)
            ]
            for channel in self._channels:
                stack.push_async_callback(channel.close)
            self.stubs = [inference_rpc.InferenceServiceStub(channel) for channel in self._channels]
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def _edge(self, layout: StateLayout) -> tuple[EdgeSpec, Path]:
        layout.edge_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        certificates = ensure_certificates(layout.edge_dir, dt.datetime.now(dt.UTC))
        tenant_port, operations_port = own_ports(2)
        jwks = Source(file=self._folder / "state" / "jwks.json")
        routers = [f"unix:{self._folder}/r{number}.sock" for number in range(1, len(self.routers) + 1)]
        spec = edge_spec(
            layout,
            certificates,
            Upstreams(
                router=Upstream(tuple(routers)),
                config=Upstream((f"unix:{self._folder}/a.sock",)),
                audit=Upstream((f"unix:{self._folder}/none.sock",)),
            ),
            KeySets(config=jwks, audit=jwks),
            tenant_port=tenant_port,
            operations_port=operations_port,
            limits=EdgeLimits(principal_requests_per_second=10_000),
        )
        return spec, certificates.ca_path

    async def _base_model(self) -> None:
        model = pool_pb2.BaseModel(
            weights_sha256="a" * 64,
            tokenizer_sha256=self.plane.artifacts.put(tiny_tokeniser_json()),
            chat_template_sha256=self.plane.artifacts.put(CHAT_TEMPLATE.encode()),
            context_tokens=2048,
            end_token_id=END_TOKEN,
            pad_token_id=END_TOKEN,
            architecture=pool_pb2.Architecture(
                layers=30, hidden=576, heads=9, kv_heads=3, head_dim=64, mlp=1536, vocabulary=49152
            ),
        )
        await self.plane.call(
            "CreateBaseModel", admin_pb.CreateBaseModelRequest(base_model_id="m", base_model=model)
        )

    def pool(self, pool_id: str, engine_sha256: str) -> pool_pb2.Pool:
        """A pool of the one server."""
        return pool_pb2.Pool(
            name=f"pools/{pool_id}",
            base_model=MODEL,
            dialect=adapter_pb2.DIALECT_TRTLLM_ENGINE,
            server_model="tensorrt_llm",
            endpoints=[pool_pb2.Endpoint(target=self.triton_target)],
            capacity=pool_pb2.Capacity(
                concurrent_requests=64, adapters=256, adapter_rank=16, kv_tokens=_PLENTY, queued_requests=256
            ),
            engine_sha256=engine_sha256,
            adapter_dtype="float16",
            adapter_config_columns=4,
        )

    def keep(self, artifact: bytes) -> str:
        """Put an artifact where routers find it; unlike the store itself, without waiting for the disk."""
        sha256 = hashlib.sha256(artifact).hexdigest()
        folder = self._folder / "artifacts" / sha256[:2]
        folder.mkdir(exist_ok=True)
        (folder / sha256).write_bytes(artifact)
        return sha256

    async def new_pool(self, pool_id: str) -> None:
        """A pool, through the admin service."""
        pool = self.pool(pool_id, "e" * 64)
        await self.plane.call("CreatePool", admin_pb.CreatePoolRequest(pool_id=pool_id, pool=pool))

    async def new_tenant(self, tenant_id: str, **config: Any) -> tuple[tenant_pb2.Tenant, str]:
        """A tenant through the admin service, and a key of its."""
        rules = tenant_pb2.TenantConfig(
            models=[tenant_pb2.ModelAlias(alias="chat", base_model=MODEL)],
            audit_policy=tenant_pb2.AUDIT_POLICY_BATCH,
            limits=tenant_pb2.Limits(
                requests_per_second=_PLENTY, request_burst=_PLENTY, concurrent_requests=1000
            ),
            **config,
        )
        made = await self.plane.call(
            "CreateTenant",
            admin_pb.CreateTenantRequest(tenant_id=tenant_id, tenant=tenant_pb2.Tenant(config=rules)),
        )
        key = await self.plane.call("CreateKey", admin_pb.CreateKeyRequest(parent=made.name))
        return made, key.secret

    async def serves(self, key: str) -> None:
        """Wait until a key's requests are answered whichever router they come to: each probes its pools first."""
        in_a_row = 0
        async with asyncio.timeout(20):
            while in_a_row < 3 * len(self.routers):
                stub = self.stubs[in_a_row % len(self.stubs)]
                try:
                    await stub.Generate(question("hello"), metadata=bearer(key), timeout=5)
                except grpc.RpcError:
                    in_a_row = 0
                    await asyncio.sleep(0.05)
                else:
                    in_a_row += 1

    @property
    def router_targets(self) -> list[str]:
        """The routers' own sockets, behind Envoy."""
        return [f"unix:{self._folder}/r{number}.sock" for number in range(1, len(self.routers) + 1)]

    async def propagated(self, revision: int = 0) -> None:
        """Wait until every router has a revision; 0 for the newest."""
        request = admin_pb.WaitForPropagationRequest(revision=revision)
        answer = await self.plane.call("WaitForPropagation", request, timeout_seconds=20)
        ours = {f"r{number}" for number in range(1, len(self.routers) + 1)}
        assert not ours & {router.router for router in answer.missing}, answer
        assert answer.applied_routers >= len(ours), answer
