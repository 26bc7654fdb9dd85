"""A real Envoy before echoes of what reached them, and the same Envoy with one thing taken away."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import re
import shutil
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import grpc

from services.common.tokens import (
    AUDIT_ISSUER,
    CONFIG_ISSUER,
    Audience,
    Claims,
    TokenIssuer,
    new_signing_key_pem,
)
from services.edge.bootstrap import build
from services.edge.listener_specs import ADMIN, INFERENCE, REFLECTION, REVIEW
from services.edge.messages import bootstrap, hcm, pack
from services.edge.spec import EdgeLimits, EdgeSpec, KeySets, Source, Upstream, Upstreams
from services.local import specs
from services.local.certificates import Certificates, ensure_certificates
from services.local.edge import edge_spec
from services.local.layout import StateLayout, open_layout
from services.local.supervisor import Supervisor
from tests.fakes.patience import PATIENCE_SECONDS
from tests.fakes.ports import own_ports

ASK, EDIT, READ = f"{INFERENCE}Generate", f"{ADMIN}GetTenant", f"{REVIEW}ExportLog"
STREAM = f"{INFERENCE}StreamGenerate"
REFLECT = f"{REFLECTION}ServerReflectionInfo"
Change = Callable[[bootstrap.Bootstrap], None]
Headers = Sequence[tuple[str, str]]


def bearer(token: str) -> tuple[str, str]:
    return ("authorization", f"Bearer {token}")


class Echo(grpc.GenericRpcHandler):
    """Answers calls with its own name and the metadata they came with, streams with a mebibyte.

    Remembers which were begun.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.begun: list[str] = []

    def service(self, call: Any) -> Any:
        self.begun.append(call.method)
        seen = [[key, value] for key, value in call.invocation_metadata if isinstance(value, str)]

        async def answer(request: bytes, context: Any) -> bytes:
            said = {"by": self.name, "path": call.method, "metadata": seen}
            return json.dumps(said | {"seconds_left": context.time_remaining()}).encode()

        async def much(request: bytes, context: Any) -> AsyncIterator[bytes]:
            for _ in range(16):
                yield bytes(64 << 10)

        if call.method == STREAM:
            return grpc.unary_stream_rpc_method_handler(much)
        return grpc.unary_unary_rpc_method_handler(answer)


@dataclass(frozen=True)
class Refusal:
    """What Envoy said to a raw request: an HTTP status, and a gRPC one where the request looked like gRPC."""

    status: int
    grpc_status: int | None
    text: str | None = field(default=None, compare=False)


@dataclass
class Edge:
    spec: EdgeSpec
    layout: StateLayout
    certificates: Certificates
    config: TokenIssuer
    audit: TokenIssuer
    echoes: dict[str, Echo]
    servers: dict[str, grpc.aio.Server]
    pid: int | None = None

    @property
    def tenant_port(self) -> int:
        return self.spec.listeners.tenant.port

    @property
    def operations_port(self) -> int:
        return self.spec.listeners.operations.port

    def token(self, issuer: TokenIssuer, audience: Audience, seconds: int = 60, subject: str = "t1") -> str:
        now = int(time.time())
        return issuer.issue(audience, Claims("k1", subject, (), now + seconds, "", ""), now)

    def caller(self, subject: str = "t1") -> Headers:
        return [bearer(self.token(self.config, Audience.INFERENCE, subject=subject))]

    def operator(self) -> Headers:
        return [bearer(self.token(self.config, Audience.OPERATOR, subject="admin"))]

    def begun(self) -> list[str]:
        """Every call that held a place in a service."""
        return [path for echo in self.echoes.values() for path in echo.begun]

    def channel(self, port: int, *options: tuple[str, int]) -> grpc.aio.Channel:
        credentials = grpc.ssl_channel_credentials(self.certificates.ca_path.read_bytes())
        return grpc.aio.secure_channel(
            f"localhost:{port}", credentials, [("grpc.use_local_subchannel_pool", 1), *options]
        )

    async def call(self, port: int, path: str, metadata: Headers = (), timeout: float = 5.0) -> Any:
        """What the echo saw, or the failure's code."""
        async with self.channel(port) as channel:
            method: Any = channel.unary_unary(path)
            try:
                answer = await method(b"", metadata=list(metadata), timeout=timeout)
            except grpc.RpcError as error:
                return error.code()
            return json.loads(answer)

    async def tenant(self, path: str, metadata: Headers = (), timeout: float = 5.0) -> Any:
        return await self.call(self.tenant_port, path, metadata, timeout)

    async def operations(self, path: str, metadata: Headers = (), timeout: float = 5.0) -> Any:
        return await self.call(self.operations_port, path, metadata, timeout)

    def tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.certificates.ca_path))

    async def connect(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """TLS, and then any bytes."""
        return await asyncio.open_connection("localhost", port, ssl=self.tls())

    async def raw(self, path: str, headers: Headers, method: str = "POST") -> Any:
        """An HTTP/1.1 request as no gRPC client writes it, to the tenant listener: what the echo saw, or a refusal."""
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close"]
        if not any(name.lower() == "content-type" for name, _ in headers):
            lines.append("Content-Type: application/grpc")
        lines += ["TE: trailers", "Content-Length: 5", *(f"{name}: {value}" for name, value in headers)]
        async with asyncio.timeout(PATIENCE_SECONDS):
            reader, writer = await self.connect(self.tenant_port)
            writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + bytes(5))
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            grpc_status = re.search(r"^grpc-status: (\d+)", head, re.MULTILINE)
            status = int(head.split()[1])
            if grpc_status or status != 200:
                writer.close()
                text = re.search(r"^grpc-message: (.*)\r$", head, re.MULTILINE)
                said = unquote(text[1]) if text else None
                return Refusal(status, int(grpc_status[1]) if grpc_status else None, said)
            body = await reader.read()
            writer.close()
        seen = re.search(rb'\{"by".*\}', body)
        assert seen, body
        return json.loads(seen[0])

    async def log_lines(self, count: int) -> list[str]:
        """The access log, once it has so many lines; Envoy writes it every ten seconds."""
        path = self.layout.access_log_path
        async with asyncio.timeout(15):
            while True:
                lines = path.read_text().splitlines()
                if len(lines) >= count:
                    return lines
                await asyncio.sleep(0.1)

    @asynccontextmanager
    async def like_this(
        self,
        change: Change = lambda message: None,
        limits: EdgeLimits | None = None,
        upstreams: Upstreams | None = None,
    ) -> AsyncIterator[Edge]:
        """A second Envoy before the same echoes, its config changed; a change that changes nothing is an error."""
        tenant_port, operations_port = own_ports(2)
        folder = Path(tempfile.mkdtemp(prefix="edge-"))
        with open_layout(folder / "s") as layout:
            layout.logs_dir.mkdir()
            spec = edge_spec(
                layout,
                self.certificates,
                upstreams or self.spec.upstreams,
                self.spec.jwks,
                tenant_port=tenant_port,
                operations_port=operations_port,
                limits=limits or self.spec.limits,
            )
            async with envoy(replace(self, spec=spec, layout=layout), change) as edge:
                yield edge
        shutil.rmtree(folder)


def changed_manager(change: Callable[[hcm.HttpConnectionManager], None]) -> Change:
    """A change of both listeners' HTTP settings."""

    def apply(message: bootstrap.Bootstrap) -> None:
        assert message.static_resources is not None
        for listener in message.static_resources.listeners:
            (only,) = listener.filter_chains[0].filters
            assert only.typed_config is not None
            manager = only.typed_config.unpack()
            change(manager)
            only.typed_config = pack(manager)

    return apply


def changed_filter(name: str, change: Callable[[Any], None]) -> Change:
    """A change of one filter of both listeners."""

    def apply(manager: hcm.HttpConnectionManager) -> None:
        (found,) = [item for item in manager.http_filters if item.name == name]
        assert found.typed_config is not None
        config = found.typed_config.unpack()
        change(config)
        found.typed_config = pack(config)

    return changed_manager(apply)


def without_filter(name: str) -> Change:
    def apply(manager: hcm.HttpConnectionManager) -> None:
        left = [item for item in manager.http_filters if item.name != name]
        assert len(left) == len(manager.http_filters) - 1
        manager.http_filters = left

    return changed_manager(apply)


def both(*changes: Change) -> Change:
    def apply(message: bootstrap.Bootstrap) -> None:
        for change in changes:
            change(message)

    return apply


@asynccontextmanager
async def envoy(edge: Edge, change: Change = lambda message: None) -> AsyncIterator[Edge]:
    """Envoy in front of an edge's echoes."""
    path = edge.layout.socket("envoy-admin").with_suffix(".pb")
    path.write_bytes(changed_bootstrap(edge.spec, change))
    async with Supervisor(edge.layout.logs_dir, lambda name, line: None, []) as supervisor:
        process = supervisor.start(specs.envoy(edge.layout, path))
        await process.wait_ready(20)
        edge.pid = process.pid
        yield edge


def changed_bootstrap(spec: EdgeSpec, change: Change) -> bytes:
    message = bootstrap.Bootstrap.parse(build(spec))
    change(message)
    return bytes(message)


@asynccontextmanager
async def running_edge() -> AsyncIterator[Edge]:
    """The edge with two routers, a config and an audit service behind it, all of them echoes."""
    # pytest's own directories are often too deep for a socket.
    folder = Path(tempfile.mkdtemp(prefix="edge-"))
    with open_layout(folder / "s") as layout:
        edge = await _made(layout, ("router", "second"))
        try:
            async with envoy(edge):
                yield edge
        finally:
            await asyncio.gather(*(server.stop(None) for server in edge.servers.values()))
    shutil.rmtree(folder)


async def _made(layout: StateLayout, routers: tuple[str, ...]) -> Edge:
    certificates = ensure_certificates(layout.edge_dir, dt.datetime.now(dt.UTC))
    config = TokenIssuer.from_pem(new_signing_key_pem(), CONFIG_ISSUER)
    audit = TokenIssuer.from_pem(new_signing_key_pem(), AUDIT_ISSUER)
    tenant_port, operations_port = own_ports(2)
    layout.logs_dir.mkdir()
    spec = edge_spec(
        layout,
        certificates,
        Upstreams(
            router=Upstream(tuple(layout.target(name) for name in routers)),
            config=Upstream((layout.target("config"),)),
            audit=Upstream((layout.target("audit"),)),
        ),
        KeySets(config=Source(inline=config.jwks()), audit=Source(inline=audit.jwks())),
        tenant_port=tenant_port,
        operations_port=operations_port,
    )
    echoes = {name: Echo(name) for name in (*routers, "config", "audit")}
    servers = {}
    for name, echo in echoes.items():
        servers[name] = grpc.aio.server(handlers=[echo])
        servers[name].add_insecure_port(layout.target(name))
        await servers[name].start()
    return Edge(spec, layout, certificates, config, audit, echoes, servers)
