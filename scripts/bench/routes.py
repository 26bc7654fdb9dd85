"""The three ways to the same scripted Triton: straight, through the bare relay, through the router."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from tenantry.audit.v1 import audit_append_service_pb2_grpc
from tenantry.config.v1 import (
    config_discovery_service_pb2,
    config_discovery_service_pb2_grpc,
    quota_lease_service_pb2_grpc,
    tenant_pb2,
)
from tenantry.inference.v1 import inference_service_pb2 as pb

from scripts.bench.bare_relay import SERVICE
from scripts.bench.free_quotas import FreeQuotas
from scripts.bench.processes import running
from services.common.artifacts import DirectoryArtifactStore
from services.common.tokens import CONFIG_ISSUER, Audience, Claims, TokenIssuer, new_signing_key_pem
from tests.fakes.router_config import FAR_FUTURE_SECONDS, ConfigWorld, ScriptedConfigService
from tests.fakes.scripted_audit import ScriptedAuditService
from tests.fakes.scripted_triton.scenarios import Exchange, infer_request, prompt
from tests.fakes.service_process import ServiceProcess
from tests.fakes.tiny_text import CHAT_TEMPLATE, tiny_tokeniser_json

# Ids of the printable ASCII characters in the tiny tokeniser: each token is a character, so each is a delta.
_PRINTABLE = '{"first_token": 3, "vocabulary_tokens": 97}'
_QUESTION = "the system user assistant said hello world " * 4
_CALL_SECONDS = 60.0
_PLENTY = 1_000_000
_GOVERNED: dict[str, Any] = {
    "guardrails": [
        tenant_pb2.GuardrailRule(
            rule_id=f"rule-{number}",
            action=tenant_pb2.GUARDRAIL_ACTION_DENY,
            stage=tenant_pb2.GUARDRAIL_STAGE_INPUT,
            pattern=rf"forbidden-{number}-[0-9]{{4,}}",
        )
        for number in range(10)
    ],
    "quotas": [tenant_pb2.Quota(window=tenant_pb2.QUOTA_WINDOW_DAY, tokens=1 << 40)],
}
"""Ten patterns and a quota, beside limits and the strictest audit policy, which is the default."""
_INFERENCE = "tenantry.inference.v1.InferenceService"


@dataclass(frozen=True, slots=True)
class Streamed:
    """One answer, as its reader saw it."""

    tokens: int
    messages: int


class Route:
    """One way; requests and answers pass as bytes, so that the client costs the same on each."""

    def __init__(
        self,
        name: str,
        pid: int | None,
        unary: Any,
        stream: Any,
        metadata: Any,
        encode: Any,
        tokens_of: Callable[[int, bytes], int],
    ) -> None:
        self.name = name
        self.pid = pid
        """Of the process in the middle; none on the straight way."""
        self._unary = unary
        self._stream = stream
        self._metadata = metadata
        self._encode = encode
        self._tokens_of = tokens_of

    async def generate(self, tokens: int) -> None:
        """Ask for a whole answer; straight, that is a stream too."""
        if self._unary is None:
            await self.stream(tokens)
            return
        await self._unary(self._encode(tokens), timeout=_CALL_SECONDS, metadata=self._metadata)

    async def stream(self, tokens: int) -> Streamed:
        """Read an answer piece by piece."""
        call = self._stream(self._encode(tokens), timeout=_CALL_SECONDS, metadata=self._metadata)
        messages, last = 0, b""
        while (message := await call.read()) is not grpc.aio.EOF:
            messages, last = messages + 1, message
        return Streamed(self._tokens_of(messages, last), messages)


@dataclass(frozen=True, slots=True)
class Routes:
    """All of them."""

    straight: Route
    relay: Route
    router: Route


@asynccontextmanager
async def open_policy_routes(folder: Path) -> AsyncIterator[Routes]:
    """Start a router of identity and relay alone, on `relay`'s way, and one that does all it does for a tenant."""
    sockets = {name: f"unix:{folder}/{name}.sock" for name in ("triton", "plain", "governed", "control")}
    async with AsyncExitStack() as stack:
        scripted = ("tests.fakes.scripted_triton", sockets["triton"], folder / "triton.log")
        script = ("--listen", sockets["triton"], "--script", _PRINTABLE)
        await stack.enter_async_context(running(*scripted, *script))
        authorization = await stack.enter_async_context(
            _control_plane(folder, sockets["control"], sockets["triton"], governed=True)
        )
        metadata, ways = (("authorization", authorization),), []
        for name, module in (("plain", "scripts.bench.plain_router"), ("governed", "services.router")):
            router = await stack.enter_async_context(
                _router(folder, sockets[name], sockets["control"], name, module=module)
            )
            assert router.process is not None
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(sockets[name]))
            ways.append(
                _route(
                    name, router.process.pid, channel, _INFERENCE, metadata, _router_request, _router_tokens
                )
            )
        straight = await stack.enter_async_context(grpc.aio.insecure_channel(sockets["triton"]))
        yield Routes(_straight(straight), *ways)


@asynccontextmanager
async def open_far_routes(folder: Path) -> AsyncIterator[Routes]:
    """Start two routers and their flow controller; the one on `relay`'s way is alone, the other asks the controller."""
    names = ("triton", "alone", "far", "controller", "flow", "control")
    sockets = {name: f"unix:{folder}/{name}.sock" for name in names}
    flow = config_discovery_service_pb2.FlowAssignment(
        epoch=1, controller="controller", target=sockets["flow"], routers=["controller", "far"]
    )
    async with AsyncExitStack() as stack:
        scripted = ("tests.fakes.scripted_triton", sockets["triton"], folder / "triton.log")
        script = ("--listen", sockets["triton"], "--script", _PRINTABLE)
        await stack.enter_async_context(running(*scripted, *script))
        authorization = await stack.enter_async_context(
            _control_plane(folder, sockets["control"], sockets["triton"], flow)
        )
        routers = {}
        for name, flow_listen in (
            ("alone", ""),
            ("controller", sockets["flow"]),
            ("far", f"unix:{folder}/f.sock"),
        ):
            routers[name] = await stack.enter_async_context(
                _router(folder, sockets[name], sockets["control"], name, flow_listen)
            )
        channels = {
            name: await stack.enter_async_context(grpc.aio.insecure_channel(sockets[name]))
            for name in ("triton", "alone", "far")
        }
        ways = []
        for name in ("alone", "far"):
            process = routers[name].process
            assert process is not None
            metadata = (("authorization", authorization),)
            ways.append(
                _route(
                    name, process.pid, channels[name], _INFERENCE, metadata, _router_request, _router_tokens
                )
            )
        yield Routes(_straight(channels["triton"]), *ways)


@asynccontextmanager
async def open_routes(folder: Path) -> AsyncIterator[Routes]:
    """Start every process and connect."""
    sockets = {name: f"unix:{folder}/{name}.sock" for name in ("triton", "relay", "router", "control")}
    async with AsyncExitStack() as stack:
        scripted = ("tests.fakes.scripted_triton", sockets["triton"], folder / "triton.log")
        script = ("--listen", sockets["triton"], "--script", _PRINTABLE)
        await stack.enter_async_context(running(*scripted, *script))
        relay = ("scripts.bench.bare_relay", sockets["relay"], folder / "relay.log")
        ends = ("--listen", sockets["relay"], "--upstream", sockets["triton"])
        relay_pid = await stack.enter_async_context(running(*relay, *ends))
        authorization = await stack.enter_async_context(
            _control_plane(folder, sockets["control"], sockets["triton"])
        )
        router = await stack.enter_async_context(_router(folder, sockets["router"], sockets["control"]))
        assert router.process is not None
        channels = {
            name: await stack.enter_async_context(grpc.aio.insecure_channel(sockets[name]))
            for name in ("triton", "relay", "router")
        }
        yield Routes(
            _straight(channels["triton"]),
            _route("relay", relay_pid, channels["relay"], SERVICE, None, _upstream_request, _upstream_tokens),
            _route(
                "router",
                router.process.pid,
                channels["router"],
                _INFERENCE,
                (("authorization", authorization),),
                _router_request,
                _router_tokens,
            ),
        )


def _straight(channel: grpc.aio.Channel) -> Route:
    stream: Any = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
    return Route(
        "straight",
        None,
        None,
        stream,
        None,
        lambda tokens: iter([_upstream_request(tokens)]),
        _upstream_tokens,
    )


def _route(
    name: str, pid: int, channel: grpc.aio.Channel, service: str, metadata: Any, encode: Any, tokens_of: Any
) -> Route:
    return Route(
        name,
        pid,
        channel.unary_unary(f"/{service}/Generate"),
        channel.unary_stream(f"/{service}/StreamGenerate"),
        metadata,
        encode,
        tokens_of,
    )


def _upstream_tokens(messages: int, _: bytes) -> int:
    return messages


def _router_tokens(_: int, last: bytes) -> int:
    return int(pb.StreamGenerateResponse.FromString(last).final.usage.output_tokens)


def _upstream_request(tokens: int) -> bytes:
    return bytes(infer_request(Exchange(prompt(tokens, end_token=None))).SerializeToString())


def _router_request(tokens: int) -> bytes:
    message = pb.Message(role=pb.ROLE_USER, content=[pb.ContentPart(text=_QUESTION)])
    return pb.GenerateRequest(
        conversation=pb.Conversation(messages=[message]),
        parameters=pb.SamplingParameters(max_output_tokens=tokens),
    ).SerializeToString()


@asynccontextmanager
async def _control_plane(
    folder: Path,
    listen: str,
    triton: str,
    flow: config_discovery_service_pb2.FlowAssignment | None = None,
    *,
    governed: bool = False,
) -> AsyncIterator[str]:
    """Config and audit services that answer at once, in this process; gives the tenant's key."""
    artifacts = DirectoryArtifactStore(folder / "artifacts")
    world = ConfigWorld(
        artifacts, artifacts.put(tiny_tokeniser_json()), artifacts.put(CHAT_TEMPLATE.encode())
    )
    world.base_model()
    world.pool([triton], concurrent_requests=1024, kv_tokens=_PLENTY, queued_requests=1024)
    limits = tenant_pb2.Limits(requests_per_second=_PLENTY, request_burst=_PLENTY, concurrent_requests=1024)
    rules = _GOVERNED if governed else {}
    if governed:
        limits.tokens_per_minute = _PLENTY * 1000
    tenant_uid = world.tenant("bench", 1, limits=limits, **rules)
    world.key(tenant_uid, "key-1")
    issuer = TokenIssuer.from_pem(new_signing_key_pem(), CONFIG_ISSUER)
    (folder / "jwks.json").write_text(issuer.jwks(), "utf-8")
    config = ScriptedConfigService(heartbeat_seconds=1.0)
    config.flow = flow
    server = grpc.aio.server()
    config_discovery_service_pb2_grpc.add_ConfigDiscoveryServiceServicer_to_server(config, server)
    audit_append_service_pb2_grpc.add_AuditAppendServiceServicer_to_server(ScriptedAuditService(), server)
    quota_lease_service_pb2_grpc.add_QuotaLeaseServiceServicer_to_server(FreeQuotas(), server)
    server.add_insecure_port(listen)
    await server.start()
    try:
        await config.push(world.resources)
        claims = Claims("key-1", tenant_uid, (), FAR_FUTURE_SECONDS, "", "")
        yield "Bearer " + issuer.issue(Audience.INFERENCE, claims, 1)
    finally:
        await server.stop(0)


@asynccontextmanager
async def _router(
    folder: Path,
    listen: str,
    control: str,
    name: str = "router",
    flow_listen: str = "",
    module: str = "services.router",
) -> AsyncIterator[ServiceProcess]:
    settings = {
        "router": name,
        "listen": listen,
        "config_target": control,
        "audit_target": control,
        "artifact_dir": str(folder / "artifacts"),
        "jwks_path": str(folder / "jwks.json"),
    }
    if flow_listen:
        settings["flow_listen"] = flow_listen
    environment = {f"TENANTRY_ROUTER_{setting.upper()}": value for setting, value in settings.items()}
    async with ServiceProcess(module, environment, listen, folder / f"{name}.log") as process:
        yield process
