"""One router a discipline, each before a scripted Triton of its own, and the tenants of every run."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc
from tenantry.audit.v1 import audit_append_service_pb2_grpc
from tenantry.config.v1 import config_discovery_service_pb2_grpc, tenant_pb2
from tenantry.inference.v1 import inference_service_pb2_grpc as rpc

from scripts.bench.neighbours.comparison import FCFS, VTC
from scripts.bench.neighbours.workloads import TenantShape
from scripts.bench.processes import running
from services.common.artifacts import DirectoryArtifactStore
from services.common.rpc.channel import open_channel
from services.common.tokens import CONFIG_ISSUER, Audience, Claims, TokenIssuer, new_signing_key_pem
from tests.fakes.router_config import (
    BASE_MODEL,
    FAR_FUTURE_SECONDS,
    ConfigWorld,
    ScriptedConfigService,
    tiny_rendition,
)
from tests.fakes.scripted_audit import ScriptedAuditService
from tests.fakes.scripted_triton.script import Batching
from tests.fakes.service_process import ServiceProcess
from tests.fakes.tiny_text import CHAT_TEMPLATE, tiny_tokeniser_json

PROBE = TenantShape("probe")
ADAPTER_SLOTS = 4
KV_TOKENS = 16_384
QUEUED_REQUESTS = 256
_PLENTY = 1_000_000
_MODULES = {FCFS: "scripts.bench.neighbours.fcfs_router", VTC: "services.router"}


@dataclass(frozen=True, slots=True)
class Router:
    """A discipline's router."""

    discipline: str
    stub: rpc.InferenceServiceAsyncStub


@dataclass(frozen=True, slots=True)
class Mesh:
    """Everything that runs."""

    routers: tuple[Router, ...]
    authorizations: dict[str, str]
    """By tenant id."""


@asynccontextmanager
async def open_mesh(folder: Path, batching: Batching, tenants: Iterable[TenantShape]) -> AsyncIterator[Mesh]:
    """Start everything, with no limits and the same bounds for both disciplines; stop everything."""
    control = f"unix:{folder}/control.sock"
    async with AsyncExitStack() as stack:
        tritons = []
        for discipline in _MODULES:
            target = f"unix:{folder}/triton-{discipline}.sock"
            script = {"first_token": 3, "vocabulary_tokens": 97, "batching": asdict(batching)}
            arguments = ("--script", json.dumps(script), "--adapter-slots", str(ADAPTER_SLOTS))
            log = folder / f"triton-{discipline}.log"
            process = running("tests.fakes.scripted_triton", target, log, "--listen", target, *arguments)
            await stack.enter_async_context(process)
            tritons.append(target)
        routers = []
        authorizations: dict[str, str] = {}
        for (discipline, module), triton in zip(_MODULES.items(), tritons, strict=True):
            own = folder / discipline
            own.mkdir()
            plane = _control_plane(own, f"{control}-{discipline}", triton, batching, tenants)
            authorizations |= await stack.enter_async_context(plane)
            routers.append(
                await stack.enter_async_context(_router(own, discipline, module, f"{control}-{discipline}"))
            )
        yield Mesh(tuple(routers), authorizations)


@asynccontextmanager
async def _router(folder: Path, discipline: str, module: str, control: str) -> AsyncIterator[Router]:
    listen = f"unix:{folder}/router.sock"
    settings = {
        "listen": listen,
        "config_target": control,
        "audit_target": control,
        "artifact_dir": str(folder / "artifacts"),
        "jwks_path": str(folder / "jwks.json"),
    }
    environment = {f"TENANTRY_ROUTER_{name.upper()}": value for name, value in settings.items()}
    async with (
        ServiceProcess(module, environment, listen, folder / "router.log"),
        open_channel(listen) as channel,
    ):
        yield Router(discipline, rpc.InferenceServiceStub(channel))


@asynccontextmanager
async def _control_plane(
    folder: Path, listen: str, triton: str, batching: Batching, tenants: Iterable[TenantShape]
) -> AsyncIterator[dict[str, str]]:
    """Config and audit services that answer at once, in this process; gives each tenant's authorization."""
    artifacts = DirectoryArtifactStore(folder / "artifacts")
    tokeniser, template = artifacts.put(tiny_tokeniser_json()), artifacts.put(CHAT_TEMPLATE.encode())
    world = ConfigWorld(artifacts, tokeniser, template)
    world.base_model()
    world.pool(
        [triton],
        concurrent_requests=batching.slots,
        adapters=ADAPTER_SLOTS,
        kv_tokens=KV_TOKENS,
        queued_requests=QUEUED_REQUESTS,
    )
    issuer = TokenIssuer.from_pem(_signing_key(folder), CONFIG_ISSUER)
    (folder / "jwks.json").write_text(issuer.jwks(), "utf-8")
    authorizations = {}
    for ordinal, tenant in enumerate(tenants, 1):
        uid = _add_tenant(world, tenant, ordinal)
        claims = Claims(f"key-{ordinal}", uid, (), FAR_FUTURE_SECONDS, "", "")
        authorizations[tenant.name] = "Bearer " + issuer.issue(Audience.INFERENCE, claims, 1)
        world.key(uid, f"key-{ordinal}")
    config = ScriptedConfigService(heartbeat_seconds=1.0)
    server = grpc.aio.server()
    config_discovery_service_pb2_grpc.add_ConfigDiscoveryServiceServicer_to_server(config, server)
    audit_append_service_pb2_grpc.add_AuditAppendServiceServicer_to_server(ScriptedAuditService(), server)
    server.add_insecure_port(listen)
    await server.start()
    try:
        await config.push(world.resources)
        yield authorizations
    finally:
        await server.stop(0)


def _signing_key(folder: Path) -> bytes:
    """One key for both routers, so that a tenant has one token."""
    path = folder.parent / "signing-key.pem"
    if not path.exists():
        path.write_bytes(new_signing_key_pem())
    return path.read_bytes()


def _add_tenant(world: ConfigWorld, tenant: TenantShape, ordinal: int) -> str:
    aliases = [tenant_pb2.ModelAlias(alias="chat", base_model=BASE_MODEL)]
    aliases += [
        tenant_pb2.ModelAlias(alias=f"adapter-{number}", base_model=BASE_MODEL, adapter=f"adapter-{number}")
        for number in range(tenant.adapters)
    ]
    limits = tenant_pb2.Limits(
        requests_per_second=_PLENTY, request_burst=_PLENTY, concurrent_requests=100_000
    )
    uid = world.tenant(tenant.name, ordinal, aliases, limits=limits, weight=tenant.weight)
    for number in range(tenant.adapters):
        world.adapter(uid, f"adapter-{number}", number + 1, tiny_rendition(number + 1))
    return uid
