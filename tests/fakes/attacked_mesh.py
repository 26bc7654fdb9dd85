"""A real Envoy before a real router, each a process of its own, and a tenant whose calls somebody else disturbs.

The config service, the audit service and the model server are played in the test's own process.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tenantry.audit.v1 import audit_append_service_pb2_grpc as audit_rpc
from tenantry.config.v1 import config_discovery_service_pb2_grpc as config_rpc
from tenantry.config.v1 import tenant_pb2
from tenantry.inference.v1 import inference_service_pb2_grpc as rpc

from services.common.artifacts import DirectoryArtifactStore
from services.common.tokens import CONFIG_ISSUER, Audience, Claims, TokenIssuer, new_signing_key_pem
from services.edge.bootstrap import build
from services.edge.messages import bootstrap
from services.edge.spec import EdgeLimits, KeySets, Source, Upstream, Upstreams
from services.local import specs
from services.local.certificates import ensure_certificates
from services.local.edge import edge_spec
from services.local.layout import open_layout
from services.local.process import to_logs_only
from services.local.supervisor import Supervisor
from tests.fakes.kserve_script import ScriptedKServe, serve_kserve, tokens
from tests.fakes.patience import PATIENCE_SECONDS
from tests.fakes.ports import own_ports
from tests.fakes.router_config import FAR_FUTURE_SECONDS, ConfigWorld, ScriptedConfigService
from tests.fakes.router_pipeline import question
from tests.fakes.scripted_audit import ScriptedAuditService
from tests.fakes.service_process import REPOSITORY, ServiceProcess
from tests.fakes.tiny_text import CHAT_TEMPLATE, tiny_tokeniser_json

Change = Callable[[bootstrap.Bootstrap], None]
VICTIM, ATTACKER = "victim", "attacker"


@dataclass
class Felt:
    """What the victim felt."""

    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass
class AttackedMesh:
    port: int
    ca: Path
    channel: grpc.aio.Channel
    router_pid: int
    envoy_pid: int
    victim: str
    attacker: str
    revoked: str

    def open_channel(self) -> grpc.aio.Channel:
        credentials = grpc.ssl_channel_credentials(self.ca.read_bytes())
        return grpc.aio.secure_channel(
            f"localhost:{self.port}", credentials, [("grpc.use_local_subchannel_pool", 1)]
        )

    async def ask(self, felt: Felt, channel: grpc.aio.Channel | None = None) -> None:
        """One call of the victim; over a connection of its own if none is given."""
        used = channel or self.open_channel()
        began = time.monotonic()
        try:
            metadata = (("authorization", f"Bearer {self.victim}"),)
            await rpc.InferenceServiceStub(used).Generate(question("hello"), metadata=metadata, timeout=10)
            await health_pb2_grpc.HealthStub(used).Check(health_pb2.HealthCheckRequest(), timeout=10)
            felt.seconds.append(time.monotonic() - began)
        except grpc.RpcError as error:
            felt.failures.append(f"{error.code().name}: {error.details()}")
        finally:
            if channel is None:
                await used.close()

    async def victim_calls(self, count: int) -> Felt:
        """So many calls, one after the other, each with a health check."""
        felt = Felt()
        for _ in range(count):
            await self.ask(felt, self.channel)
        return felt

    async def victim_for(self, seconds: float, *, new_connections: bool = False) -> Felt:
        """Calls for so long, ten a second at most."""
        felt, until = Felt(), time.monotonic() + seconds
        while time.monotonic() < until:
            began = time.monotonic()
            await self.ask(felt, None if new_connections else self.channel)
            await asyncio.sleep(max(0.0, 0.1 - (time.monotonic() - began)))
        return felt

    def resident(self) -> tuple[int, int]:
        """Bytes of memory of router and Envoy."""
        return resident_bytes(self.router_pid), resident_bytes(self.envoy_pid)

    @asynccontextmanager
    async def attack(self, kind: str, token: str, seconds: float) -> AsyncIterator[dict[str, Any]]:
        """An attack in a process of its own; its counts are there once it has ended."""
        counts: dict[str, Any] = {}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.fakes.attackers", kind, str(self.port), str(self.ca), token,
            str(seconds), cwd=REPOSITORY, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            yield counts
            said, _ = await asyncio.wait_for(process.communicate(), seconds + PATIENCE_SECONDS)
            counts.update(json.loads(said.splitlines()[-1]))
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


class Peak:
    """The most memory that router and Envoy had more than at the beginning."""

    def __init__(self, mesh: AttackedMesh) -> None:
        self._mesh = mesh
        self._before = mesh.resident()
        self.router = self.envoy = 0
        self._watching: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._watching = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._watching is not None
        self._watching.cancel()
        self._look()

    async def _watch(self) -> None:
        while True:
            self._look()
            await asyncio.sleep(0.05)

    def _look(self) -> None:
        router, envoy = self._mesh.resident()
        self.router = max(self.router, router - self._before[0])
        self.envoy = max(self.envoy, envoy - self._before[1])


@asynccontextmanager
async def attacked_mesh(
    *,
    router_module: str = "services.router",
    change: Change = lambda message: None,
    limits: EdgeLimits | None = None,
    **settings: str,
) -> AsyncIterator[AttackedMesh]:
    """Start it all; a change is one of Envoy's config, settings are the router's."""
    # pytest's own directories are often too deep for a socket.
    folder = Path(tempfile.mkdtemp(prefix="door-"))
    try:
        async with AsyncExitStack() as stack:
            yield await _started(stack, folder, router_module, change, limits, settings)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _started(
    stack: AsyncExitStack,
    folder: Path,
    router_module: str,
    change: Change,
    limits: EdgeLimits | None,
    settings: dict[str, str],
) -> AttackedMesh:
    def target(name: str) -> str:
        return f"unix:{folder}/{name}.sock"

    async def scene(request: Any, send: Any) -> None:
        await send(tokens(request.id, [ord("A")], final=True))

    config = ScriptedConfigService()
    for name, register in (
        ("config", lambda s: config_rpc.add_ConfigDiscoveryServiceServicer_to_server(config, s)),
        ("audit", lambda s: audit_rpc.add_AuditAppendServiceServicer_to_server(ScriptedAuditService(), s)),
    ):
        server = grpc.aio.server()
        register(server)
        server.add_insecure_port(target(name))
        await server.start()
        stack.push_async_callback(server.stop, 0)
    triton = await serve_kserve(target("triton"), ScriptedKServe(scene))
    stack.push_async_callback(triton.stop, 0)
    artifacts = DirectoryArtifactStore(folder / "artifacts")
    world = ConfigWorld(
        artifacts, artifacts.put(tiny_tokeniser_json()), artifacts.put(CHAT_TEMPLATE.encode())
    )
    world.base_model()
    world.pool([target("triton")])
    world.key(world.tenant(VICTIM, 1), VICTIM)
    # As much as an operator may have granted: the router's own shares have to hold.
    generous = tenant_pb2.Limits(concurrent_requests=1000)
    attacker = world.tenant(ATTACKER, 2, limits=generous)
    world.key(attacker, ATTACKER)
    world.key(attacker, "revoked", revoked=True)
    await config.push(world.resources)
    issuer = TokenIssuer.from_pem(new_signing_key_pem(), CONFIG_ISSUER)
    (folder / "jwks.json").write_text(issuer.jwks())

    def key(uid: str, key_id: str) -> str:
        return issuer.issue(Audience.INFERENCE, Claims(key_id, uid, (), FAR_FUTURE_SECONDS, "", ""), 1)

    given = {
        "LISTEN": target("router"),
        "CONFIG_TARGET": target("config"),
        "AUDIT_TARGET": target("audit"),
        "ARTIFACT_DIR": str(folder / "artifacts"),
        "JWKS_PATH": str(folder / "jwks.json"),
        **settings,
    }
    router = ServiceProcess(
        router_module,
        {f"TENANTRY_ROUTER_{name}": value for name, value in given.items()},
        target("router"),
        folder / "router.log",
    )
    await stack.enter_async_context(router)
    layout = stack.enter_context(open_layout(folder / "s"))
    layout.logs_dir.mkdir()
    layout.edge_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    certificates = ensure_certificates(layout.edge_dir, dt.datetime.now(dt.UTC))
    tenant_port, operations_port = own_ports(2)
    jwks = Source(file=folder / "jwks.json")
    spec = edge_spec(
        layout,
        certificates,
        Upstreams(*(Upstream((target(name),)) for name in ("router", "none", "none-either"))),
        KeySets(config=jwks, audit=jwks),
        tenant_port=tenant_port,
        operations_port=operations_port,
        limits=limits,
    )
    message = bootstrap.Bootstrap.parse(build(spec))
    change(message)
    path = folder / "bootstrap.pb"
    path.write_bytes(bytes(message))
    supervisor = await stack.enter_async_context(Supervisor(layout.logs_dir, to_logs_only, []))
    envoy = supervisor.start(specs.envoy(layout, path))
    await envoy.wait_ready(20)
    assert router.process is not None
    assert envoy.pid is not None
    mesh = AttackedMesh(
        port=tenant_port,
        ca=certificates.ca_path,
        channel=grpc.aio.insecure_channel("unix:unused"),
        router_pid=router.process.pid,
        envoy_pid=envoy.pid,
        victim=key(f"uid-{VICTIM}", VICTIM),
        attacker=key(f"uid-{ATTACKER}", ATTACKER),
        revoked=key(f"uid-{ATTACKER}", "revoked"),
    )
    mesh.channel = mesh.open_channel()
    stack.push_async_callback(mesh.channel.close)
    async with asyncio.timeout(PATIENCE_SECONDS):
        # The endpoint is probed first.
        while not (await mesh.victim_calls(1)).seconds:  # noqa: ASYNC110 - another process's state
            await asyncio.sleep(0.05)
    return mesh
