"""The access log under a flood of refusals, and its rotation while Envoy writes it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import replace

import grpc
import pytest

from services.edge import access_log
from services.edge.spec import EdgeLimits
from services.local.access_log import rotate_when_full
from services.local.log_file import older
from tests.integration.edge_process import ASK, changed_manager, running_edge

pytestmark = pytest.mark.integration

FLOOD = 600
MANY = EdgeLimits(keyless_requests_per_second=100_000, principal_requests_per_second=100_000)
FEW_LINES = replace(MANY, logged_refusals_per_second=10)


@pytest.fixture
async def edge():
    async with running_edge() as running:
        yield running


async def flood(edge, path, metadata):
    async with edge.channel(edge.tenant_port) as channel:
        ask = channel.unary_unary(path)
        calls = [ask(b"", metadata=metadata, timeout=30) for _ in range(FLOOD)]
        return Counter([await call.code() for call in calls])


async def logged(edge, known):
    """Statuses of the lines so far; waits for the line of one more answer."""
    async with edge.channel(edge.tenant_port) as channel:
        call = channel.unary_unary(ASK)(b"", metadata=edge.caller(), timeout=30)
        await call
        request_id = dict(await call.initial_metadata())["x-request-id"]
    while True:
        lines = [json.loads(line) for line in await edge.log_lines(known + 1)]
        if any(line["request_id"] == request_id for line in lines):
            return Counter(line["grpc_status"] or str(line["status"]) for line in lines)
        known = len(lines)


@pytest.mark.parametrize(
    ("path", "status"),
    [(ASK, "UNAUTHENTICATED"), ("/nowhere", "UNIMPLEMENTED"), (f"{ASK}%2Fa", "INTERNAL")],
    ids=["without a key", "without a route", "with a path that is refused"],
)
async def test_a_flood_of_refusals_is_sampled(edge, path, status):
    async with edge.like_this(limits=FEW_LINES) as strict:
        loop = asyncio.get_running_loop()
        began = loop.time()
        refused = await flood(strict, path, [])
        seconds = loop.time() - began
        statuses = await logged(strict, 0)
    assert refused == {grpc.StatusCode[status]: FLOOD}
    # So many in each second that was begun, and of the rest one in a hundred.
    most = 10 * (int(seconds) + 2) + FLOOD // 100
    assert 10 <= statuses[status] <= most < FLOOD / 2


async def test_refusals_of_a_service_are_sampled_too(edge, monkeypatch):
    """As of a revoked key, which only the router refuses."""

    async def refuse(request, context):
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "revoked")

    for echo in edge.echoes.values():
        monkeypatch.setattr(echo, "service", lambda call: grpc.unary_unary_rpc_method_handler(refuse))
    async with edge.like_this(limits=FEW_LINES) as strict:
        await flood(strict, ASK, strict.caller())
        monkeypatch.undo()
        statuses = await logged(strict, 0)
    assert 10 <= statuses["UNAUTHENTICATED"] < FLOOD / 2


async def refusals_beside_a_flood(edge, monkeypatch, floods, quiet):
    """How many of three refusals of `quiet` are logged after a flood of refusals of `floods` in the same seconds."""

    async def refuse(request, context):
        await context.abort(grpc.StatusCode.PERMISSION_DENIED if request else grpc.StatusCode.NOT_FOUND)

    for echo in edge.echoes.values():
        monkeypatch.setattr(echo, "service", lambda call: grpc.unary_unary_rpc_method_handler(refuse))
    async with edge.like_this(limits=replace(MANY, logged_refusals_per_second=3)) as strict:
        async with strict.channel(strict.tenant_port) as channel:
            ask = channel.unary_unary(ASK)
            for _ in range(3):
                calls = [ask(b"", metadata=floods, timeout=30) for _ in range(50)]
                await asyncio.gather(*(call.code() for call in calls))
                await ask(b"x", metadata=quiet, timeout=30).code()
        monkeypatch.undo()
        statuses = await logged(strict, 0)
    return statuses["PERMISSION_DENIED"]


async def test_a_flood_of_one_key_holder_hides_no_refusal_of_another(edge, monkeypatch):
    assert await refusals_beside_a_flood(edge, monkeypatch, edge.caller("t1"), edge.caller("t2")) == 3


async def test_that_test_notices_one_rate_for_all(edge, monkeypatch):
    shared = access_log._SAMPLE.replace("local who = holder(handle)", 'local who = ""')
    monkeypatch.setattr(access_log, "_SAMPLE", shared)
    assert await refusals_beside_a_flood(edge, monkeypatch, edge.caller("t1"), edge.caller("t2")) < 3


async def test_answers_are_logged_however_many_there_are(edge):
    async with edge.like_this(limits=FEW_LINES) as strict:
        assert await flood(strict, ASK, strict.caller()) == {grpc.StatusCode.OK: FLOOD}
        assert (await logged(strict, FLOOD))["OK"] == FLOOD + 1


async def test_those_tests_notice_a_log_of_everything(edge):
    def everything(manager):
        manager.access_log[0].filter = None

    async with edge.like_this(changed_manager(everything), FEW_LINES) as mutant:
        await flood(mutant, ASK, [])
        assert (await logged(mutant, FLOOD))["UNAUTHENTICATED"] == FLOOD


async def test_a_full_log_is_moved_aside_and_no_line_is_lost(edge):
    path, admin = edge.layout.access_log_path, edge.layout.socket("envoy-admin")
    await flood(edge, ASK, edge.caller())
    await edge.log_lines(FLOOD)
    rotation = asyncio.create_task(rotate_when_full(path, admin, max_bytes=1000, look_every_seconds=0.01))
    async with asyncio.timeout(30):
        # Envoy makes the new file itself, once it has reopened its logs.
        while not (older(path).exists() and path.exists()):  # noqa: ASYNC110 another process's file
            await asyncio.sleep(0.01)
    rotation.cancel()
    before = older(path).read_text().splitlines()
    await edge.tenant(ASK, edge.caller())
    after = await edge.log_lines(1)
    ids = [json.loads(line)["request_id"] for line in [*before, *after]]
    assert len(ids) == len(set(ids)) == FLOOD + 1


async def test_a_log_that_envoy_does_not_reopen_yet_is_reopened_later(edge, tmp_path):
    path = tmp_path / "access.log"
    path.write_text("x" * 2000)
    nobody = tmp_path / "admin.sock"
    asked = asyncio.Event()
    rotation = asyncio.create_task(rotate_when_full(path, nobody, max_bytes=1000, look_every_seconds=0.01))
    async with asyncio.timeout(30):
        while not older(path).exists():  # noqa: ASYNC110 a file has no event
            await asyncio.sleep(0.01)

    async def admin(reader, writer):
        assert await reader.readline() == b"POST /reopen_logs HTTP/1.1\r\n"
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        writer.close()
        asked.set()

    server = await asyncio.start_unix_server(admin, nobody)
    async with asyncio.timeout(30):
        await asked.wait()
    rotation.cancel()
    server.close()
