"""The real Envoy before an echo of what reached it: which service each listener reaches, and with whose key."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import time
from pathlib import Path

import grpc
import pytest

from services.common.tokens import CONFIG_ISSUER, Audience, TokenIssuer, new_signing_key_pem
from services.edge.filters import BUFFER
from services.edge.listener_specs import HEALTH
from services.local.needs import required_binary
from tests.fakes.patience import PATIENCE_SECONDS, promised
from tests.integration.edge_process import (
    ASK,
    EDIT,
    READ,
    REFLECT,
    bearer,
    changed_bootstrap,
    running_edge,
    without_filter,
)

pytestmark = pytest.mark.integration

WATCH = "/grpc.health.v1.Health/Watch"
UNIMPLEMENTED, UNAUTHENTICATED = grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAUTHENTICATED


@pytest.fixture
async def edge():
    async with running_edge() as running:
        yield running


def envoy_run(path, *flags):
    command = [str(required_binary("envoy")), "--config-path", str(path), "--disable-hot-restart", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


async def test_envoy_accepts_every_line_of_the_config(edge, tmp_path):
    path = tmp_path / "bootstrap.pb"
    path.write_bytes(changed_bootstrap(edge.spec, lambda message: None))
    done = await asyncio.to_thread(envoy_run, path, "--mode", "validate")
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr.lower()
    assert not re.search(r"\[(warning|error|critical)\]", done.stderr), done.stderr


async def test_each_key_opens_its_own_listener_only(edge):
    caller = edge.token(edge.config, Audience.INFERENCE)
    operator = edge.token(edge.config, Audience.OPERATOR)
    reviewer = edge.token(edge.audit, Audience.REVIEW)
    foreign = TokenIssuer.from_pem(new_signing_key_pem(), CONFIG_ISSUER)
    others = [
        edge.token(foreign, Audience.INFERENCE),
        edge.token(edge.config, Audience.INFERENCE, seconds=-60),
        "not.a.token",
    ]
    openings = {
        (edge.tenant, ASK): caller,
        (edge.operations, EDIT): operator,
        (edge.operations, REFLECT): operator,
        (edge.operations, READ): reviewer,
    }
    for (call, path), right in openings.items():
        assert isinstance(await call(path, [bearer(right)]), dict), path
        assert await call(path) is UNAUTHENTICATED
        for wrong in [*{caller, operator, reviewer} - {right}, *others]:
            assert await call(path, [bearer(wrong)]) is UNAUTHENTICATED, path


async def test_only_what_is_named_is_routed(edge):
    caller, operator = edge.caller(), edge.operator()
    assert (await edge.tenant(HEALTH))["by"] in {"router", "second"}
    assert (await edge.operations(HEALTH))["by"] == "config"
    assert (await edge.operations(EDIT, operator))["by"] == "config"
    begun = len(edge.begun())
    for path in (
        EDIT,
        READ,
        "/tenantry.config.v1.ConfigDiscoveryService/Stream",
        "/tenantry.audit.v1.AuditAppendService/Append",
        "/",
        f"{HEALTH}/more",
        f"{HEALTH}er",
    ):
        assert await edge.tenant(path, caller) is UNIMPLEMENTED, path
    assert await edge.operations(ASK, operator) is UNIMPLEMENTED
    assert len(edge.begun()) == begun


async def test_nobody_without_a_key_holds_a_place_in_a_service(edge):
    for call in (edge.tenant, edge.operations):
        # What gRPC clients take as: this server has no health to watch.
        assert await call(WATCH) is UNIMPLEMENTED
    assert edge.begun() == []
    assert await begun_while_a_question_stays_unfinished(edge) == [HEALTH]


async def begun_while_a_question_stays_unfinished(edge):
    """What the config service has begun when a whole question, asked after an unfinished one, is answered."""
    echo = edge.echoes["config"]
    before = len(echo.begun)
    async with edge.channel(edge.operations_port) as channel:
        unfinished = channel.stream_unary(HEALTH)(timeout=PATIENCE_SECONDS)
        # Both go over one connection, in this order.
        await unfinished.write(b"")
        await channel.unary_unary(HEALTH)(b"", timeout=PATIENCE_SECONDS)
        unfinished.cancel()
    return echo.begun[before:]


async def test_that_test_notices_a_question_that_is_sent_on_unfinished(edge):
    async with edge.like_this(without_filter(BUFFER)) as mutant:
        assert await begun_while_a_question_stays_unfinished(mutant) == [HEALTH, HEALTH]


async def test_that_test_notices_a_watch_for_everybody(edge, monkeypatch):
    monkeypatch.setattr("services.edge.listener_specs.HEALTH", WATCH)
    async with edge.like_this() as mutant:
        assert (await mutant.tenant(WATCH))["path"] == WATCH
        assert WATCH in edge.begun()


async def test_without_a_router_callers_hear_unavailable_at_once(edge):
    caller = edge.caller()
    await edge.servers["second"].stop(None)
    async with asyncio.timeout(PATIENCE_SECONDS):
        # The one that is left serves, once the other is seen to be gone.
        while [await edge.tenant(ASK, caller) for _ in range(4)].count(grpc.StatusCode.UNAVAILABLE):
            pass
    await edge.servers["router"].stop(None)
    started = time.monotonic()
    for _ in range(8):
        assert await edge.tenant(ASK, caller) is grpc.StatusCode.UNAVAILABLE
    assert time.monotonic() - started < promised(5)


async def test_the_log_says_what_happened_and_no_secret_and_has_an_end(edge):
    token = edge.token(edge.config, Audience.INFERENCE)
    await edge.tenant(f"{ASK}?key=secret-in-query", [bearer(token), ("x-request-id", "r" * 4000)])
    await edge.tenant(f"{ASK}{'a' * 8000}?access_token={token}")
    first, second = (await edge.log_lines(2))[:2]
    assert json.loads(first)["path"] == ASK
    assert json.loads(second)["path"] == f"{ASK}{'a' * 8000}"[:256]
    assert token not in first + second
    assert "secret-in-query" not in first
    assert max(len(first), len(second)) < 1000


def listening(pid):
    """The ports a process listens on, with their addresses as the kernel writes them."""
    own = {str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_symlink()}
    addresses = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in own:
                address, port = local.split(":")
                addresses[int(port, 16)] = address
    return addresses


async def test_admin_is_a_socket_and_listeners_are_on_loopback(edge):
    assert edge.layout.socket("envoy-admin").is_socket()
    assert listening(edge.pid) == dict.fromkeys((edge.tenant_port, edge.operations_port), "0100007F")


async def test_a_second_edge_on_the_same_ports_does_not_start(edge, tmp_path):
    """Else each of two meshes would answer every other connection of the other's callers."""
    path = tmp_path / "second.pb"

    def own_admin(message):
        message.admin.address.pipe.path = str(edge.layout.socket("second-admin"))

    path.write_bytes(changed_bootstrap(edge.spec, own_admin))
    done = await asyncio.to_thread(envoy_run, path)
    assert done.returncode != 0
    assert "cannot bind" in done.stderr
