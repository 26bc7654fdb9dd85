"""The real Envoy before an echo of what reached it: who gets through which door, with which headers."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import shutil
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import pytest

from services.cli.local import specs
from services.cli.local.certificates import ensure_certificates
from services.cli.local.edge.bootstrap import write
from services.cli.local.edge.filters import OUR_HEADERS
from services.cli.local.edge.listeners import ADMIN, HEALTH, INFERENCE, REFLECTION, REVIEW
from services.cli.local.edge.spec import EdgeSpec
from services.cli.local.layout import open_layout
from services.cli.local.needs import required_binary
from services.cli.local.ports import ANY, free_ports
from services.cli.local.supervisor import Supervisor
from services.common.tokens import (
    AUDIT_ISSUER,
    CONFIG_ISSUER,
    Audience,
    Claims,
    TokenIssuer,
    new_signing_key_pem,
)

pytestmark = pytest.mark.integration

ASK, EDIT, READ = f"{INFERENCE}Generate", f"{ADMIN}GetTenant", f"{REVIEW}ExportLog"
REFLECT = f"{REFLECTION}ServerReflectionInfo"


class Echo(grpc.GenericRpcHandler):
    """Answers every call with its own name and the metadata it came with."""

    def __init__(self, name):
        self._name = name

    def service(self, call):
        seen = [[key, value] for key, value in call.invocation_metadata if isinstance(value, str)]

        async def answer(request, context):
            return json.dumps({"by": self._name, "metadata": seen}).encode()

        return grpc.unary_unary_rpc_method_handler(answer)


async def echo(target, name):
    server = grpc.aio.server(handlers=[Echo(name)])
    server.add_insecure_port(target)
    await server.start()
    return server


@dataclass
class Edge:
    spec: EdgeSpec
    ca_path: Path
    config: TokenIssuer
    audit: TokenIssuer
    upstreams: dict[str, grpc.aio.Server]

    def token(self, issuer, audience, seconds=60):
        now = int(time.time())
        return issuer.issue(audience, Claims("k1", "t1", (), now + seconds, "", ""), now)

    async def call(self, port, path, metadata=(), timeout=5.0):
        """What the echo saw, or the failure's code."""
        credentials = grpc.ssl_channel_credentials(self.ca_path.read_bytes())
        async with grpc.aio.secure_channel(f"localhost:{port}", credentials) as channel:
            try:
                answer = await channel.unary_unary(path)(b"", metadata=list(metadata), timeout=timeout)
            except grpc.RpcError as error:
                return error.code()
            return json.loads(answer)

    async def tenant(self, path, metadata=()):
        return await self.call(self.spec.tenant_port, path, metadata)

    async def operations(self, path, metadata=()):
        return await self.call(self.spec.operations_port, path, metadata)


def bearer(token):
    return ("authorization", f"Bearer {token}")


def edge_spec(layout, certificates, config, audit, routers=("router",)):
    tenant_port, operations_port = free_ports([ANY, ANY])
    return EdgeSpec(
        tenant_port=tenant_port,
        operations_port=operations_port,
        certificate_path=certificates.certificate_path,
        key_path=certificates.key_path,
        admin_socket=layout.socket("envoy-admin"),
        access_log_path=layout.logs_dir / "access.log",
        router_sockets=tuple(layout.socket(name) for name in routers),
        config_admin_socket=layout.socket("config"),
        audit_review_socket=layout.socket("audit"),
        config_jwks=config.jwks(),
        audit_jwks=audit.jwks(),
    )


@pytest.fixture
def layout():
    # pytest's own directories are often too deep for a socket.
    folder = Path(tempfile.mkdtemp(prefix="edge-"))
    with open_layout(folder / "s") as opened:
        yield opened
    shutil.rmtree(folder)


@pytest.fixture
async def edge(layout):
    certificates = ensure_certificates(layout.edge_dir, dt.datetime.now(dt.UTC))
    config = TokenIssuer.from_pem(new_signing_key_pem(), CONFIG_ISSUER)
    audit = TokenIssuer.from_pem(new_signing_key_pem(), AUDIT_ISSUER)
    spec = edge_spec(layout, certificates, config, audit, routers=("router", "second"))
    bootstrap = layout.edge_dir / "bootstrap.pb"
    write(spec, bootstrap)
    upstreams = {
        name: await echo(layout.target(name), name) for name in ("router", "second", "config", "audit")
    }
    async with Supervisor(layout.logs_dir, lambda name, line: None, []) as supervisor:
        await supervisor.start(specs.envoy(layout, bootstrap)).wait_ready(20)
        yield Edge(spec, certificates.ca_path, config, audit, upstreams)
    for server in upstreams.values():
        await server.stop(None)


def test_envoy_accepts_the_bootstrap(layout, tmp_path):
    certificates = ensure_certificates(layout.edge_dir, dt.datetime.now(dt.UTC))
    layout.logs_dir.mkdir()
    issuer = TokenIssuer.from_pem(new_signing_key_pem(), CONFIG_ISSUER)
    path = tmp_path / "bootstrap.pb"
    write(edge_spec(layout, certificates, issuer, issuer), path)
    command = [str(required_binary("envoy")), "--mode", "validate", "--config-path", str(path)]
    done = subprocess.run(
        [*command, "--disable-hot-restart"], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr


async def test_each_key_opens_its_own_door_only(edge):
    caller = edge.token(edge.config, Audience.INFERENCE)
    operator = edge.token(edge.config, Audience.OPERATOR)
    reviewer = edge.token(edge.audit, Audience.REVIEW)
    foreign = TokenIssuer.from_pem(new_signing_key_pem(), CONFIG_ISSUER)
    others = [
        edge.token(foreign, Audience.INFERENCE),
        edge.token(edge.config, Audience.INFERENCE, seconds=-60),
        "not.a.token",
    ]
    doors = {
        (edge.tenant, ASK): caller,
        (edge.tenant, REFLECT): caller,
        (edge.operations, EDIT): operator,
        (edge.operations, READ): reviewer,
    }
    for (door, path), right in doors.items():
        assert isinstance(await door(path, [bearer(right)]), dict), path
        assert await door(path) is grpc.StatusCode.UNAUTHENTICATED
        for wrong in [*{caller, operator, reviewer} - {right}, *others]:
            assert await door(path, [bearer(wrong)]) is grpc.StatusCode.UNAUTHENTICATED, path


async def test_only_what_is_named_is_routed(edge):
    caller = [bearer(edge.token(edge.config, Audience.INFERENCE))]
    operator = [bearer(edge.token(edge.config, Audience.OPERATOR))]
    for path in HEALTH:
        assert (await edge.tenant(path))["by"] in {"router", "second"}
        assert (await edge.operations(path))["by"] == "config"
    assert (await edge.operations(EDIT, operator))["by"] == "config"
    refused = {grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.INTERNAL}
    for path in (
        EDIT,
        READ,
        "/tenantry.config.v1.ConfigDiscoveryService/Stream",
        "/tenantry.audit.v1.AuditAppendService/Append",
        "/",
        "/grpc.health.v1.Health/Check/more",
        f"/grpc.health.v1.Health%2FCheck{ASK}",
    ):
        answer = await edge.tenant(path, caller)
        assert isinstance(answer, grpc.StatusCode), path
        assert answer in refused, path
    # An exempt path is no way round the key.
    assert await edge.tenant(f"{HEALTH[0]}/../..{ASK}") is grpc.StatusCode.UNAUTHENTICATED
    assert await edge.operations(ASK, operator) is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("name", ["tenant", "tenant-uid", "key-id", "anything", ""])
async def test_a_header_of_ours_never_arrives(edge, name):
    metadata = [bearer(edge.token(edge.config, Audience.INFERENCE)), (OUR_HEADERS + name, "spoofed")]
    seen = await edge.tenant(ASK, [*metadata, (OUR_HEADERS + name, "twice"), ("x-other", "kept")])
    names = [key for key, _ in seen["metadata"]]
    assert not [key for key in names if key.startswith(OUR_HEADERS)]
    assert "x-other" in names
    assert "authorization" in names


async def test_an_underscore_does_not_get_round_the_rule(edge):
    metadata = [bearer(edge.token(edge.config, Audience.INFERENCE)), ("x_tenantry_tenant", "spoofed")]
    assert isinstance(await edge.tenant(ASK, metadata), grpc.StatusCode)


async def test_without_a_router_callers_hear_unavailable_at_once(edge):
    caller = [bearer(edge.token(edge.config, Audience.INFERENCE))]
    await edge.upstreams["second"].stop(None)
    async with asyncio.timeout(10):
        # The one that is left serves, once the other is seen to be gone.
        while [await edge.tenant(ASK, caller) for _ in range(4)].count(grpc.StatusCode.UNAVAILABLE):
            pass
    await edge.upstreams["router"].stop(None)
    started = time.monotonic()
    for _ in range(8):
        assert await edge.tenant(ASK, caller) is grpc.StatusCode.UNAVAILABLE
    assert time.monotonic() - started < 5


async def test_the_log_says_what_happened_and_no_secret(edge):
    token = edge.token(edge.config, Audience.INFERENCE)
    await edge.tenant(f"{ASK}?key=secret-in-query", [bearer(token)])
    async with asyncio.timeout(15):
        while True:
            if text := edge.spec.access_log_path.read_text():
                break
            await asyncio.sleep(0.1)
    assert json.loads(text.splitlines()[0])["path"] == ASK
    assert token not in text
    assert "secret-in-query" not in text


async def test_admin_is_a_socket_and_listeners_are_on_loopback(edge):
    assert edge.spec.admin_socket.is_socket()
    host = socket.gethostbyname(socket.gethostname())
    if not host.startswith("127."):
        with (
            pytest.raises(OSError, match="refused"),
            socket.create_connection((host, edge.spec.tenant_port), 1),
        ):
            pass


async def test_the_rule_against_our_headers_is_what_stops_them(edge, layout, monkeypatch):
    """The mutant: another prefix removed. The spoofed header then arrives, so the test above can fail."""
    monkeypatch.setattr("services.cli.local.edge.filters.OUR_HEADERS", "x-nobody-")
    spec = replace(edge.spec, admin_socket=layout.socket("mutant-admin"))
    tenant_port, operations_port = free_ports([ANY, ANY])
    spec = replace(spec, tenant_port=tenant_port, operations_port=operations_port)
    bootstrap = layout.edge_dir / "mutant.pb"
    write(spec, bootstrap)
    mutant = replace(edge, spec=spec)
    ready = replace(specs.envoy(layout, bootstrap), name="mutant", ready=lambda: _listens(tenant_port))
    async with Supervisor(layout.logs_dir, lambda name, line: None, []) as supervisor:
        await supervisor.start(ready).wait_ready(20)
        metadata = [bearer(edge.token(edge.config, Audience.INFERENCE)), ("x-tenantry-tenant", "spoofed")]
        assert ["x-tenantry-tenant", "spoofed"] in (await mutant.tenant(ASK, metadata))["metadata"]


async def _listens(port):
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
