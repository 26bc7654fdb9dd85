"""Every request has one id, chosen by the edge: in the service, in the answer and in the access log."""

from __future__ import annotations

import asyncio
import json
import uuid
from dataclasses import replace

import grpc
import pytest

from services.common.tokens import Audience
from services.edge.hygiene import REQUEST_ID
from services.edge.listener_specs import HEALTH, INFERENCE
from services.edge.spec import EdgeLimits, Upstream
from tests.integration.edge_process import ASK, EDIT, READ, STREAM, bearer, changed_manager, running_edge

pytestmark = pytest.mark.integration

CHOSEN = "11111111-1111-4111-8111-111111111111"


@pytest.fixture
async def edge():
    async with running_edge() as running:
        yield running


async def ids_of(edge, port, path, metadata=(), request=b""):
    """The ids in the answer, and those the service saw; none where it was not asked."""
    async with edge.channel(port) as channel:
        call = channel.unary_unary(path)(request, metadata=list(metadata), timeout=5)
        try:
            seen = json.loads(await call)["metadata"]
        except grpc.RpcError:
            seen = []
        answered = [*(await call.initial_metadata() or ()), *(await call.trailing_metadata() or ())]
    return [v for k, v in answered if k == REQUEST_ID], [v for k, v in seen if k == REQUEST_ID]


async def test_each_answer_and_each_service_has_the_id_the_edge_chose(edge):
    caller, operator = edge.caller(), edge.operator()
    reviewer = [bearer(edge.token(edge.audit, Audience.REVIEW))]
    ids = []
    for port, path, metadata in (
        (edge.tenant_port, ASK, caller),
        (edge.tenant_port, HEALTH, []),
        (edge.operations_port, EDIT, operator),
        (edge.operations_port, READ, reviewer),
    ):
        for sent in ([], [(REQUEST_ID, CHOSEN)], [(REQUEST_ID, CHOSEN), (REQUEST_ID, "x" * 2000)]):
            answered, seen = await ids_of(edge, port, path, [*metadata, *sent])
            assert answered == seen
            (request_id,) = seen
            assert str(uuid.UUID(request_id, version=4)) == request_id
            ids.append(request_id)
    assert len({*ids, CHOSEN}) == len(ids) + 1


async def test_that_test_notices_an_id_that_its_sender_chose(edge):
    def kept(manager):
        manager.early_header_mutation_extensions = []
        # As Envoy does by itself with callers of its own network.
        manager.preserve_external_request_id = True

    async with edge.like_this(changed_manager(kept)) as mutant:
        sent = [*mutant.caller(), (REQUEST_ID, CHOSEN)]
        assert await ids_of(mutant, mutant.tenant_port, ASK, sent) == ([CHOSEN], [CHOSEN])


async def test_each_refusal_of_the_edge_has_an_id_that_the_log_has_too(edge):
    few = EdgeLimits(principal_requests_per_second=1, keyless_requests_per_second=1)
    nothing_there = replace(edge.spec.upstreams, router=Upstream((edge.layout.target("none"),)))
    async with edge.like_this(limits=few, upstreams=nothing_there) as strict:
        refused = {}
        tenants, operations = strict.tenant_port, strict.operations_port
        for what, port, path, metadata, request in (
            ("no service", tenants, ASK, strict.caller(), b""),
            ("no key", tenants, ASK, [], b""),
            ("no key for a path", tenants, "/nowhere", [], b""),
            # Only this door's requests are held until they are whole.
            ("too large", operations, EDIT, strict.operator(), bytes(6 << 20)),
        ):
            answered, _ = await ids_of(strict, port, path, metadata, request)
            (refused[what],) = answered
        for _ in range(3):
            answered, _ = await ids_of(strict, strict.tenant_port, ASK, strict.caller("t3"))
        (refused["too often"],) = answered
        lines = {line["request_id"]: line for line in map(json.loads, await strict.log_lines(7))}
        assert len(lines) == 7
        said = {what: lines[request_id]["grpc_status"] for what, request_id in refused.items()}
    assert said == {
        "no service": "UNAVAILABLE",
        "no key": "UNAUTHENTICATED",
        "no key for a path": "UNIMPLEMENTED",
        "too large": "RESOURCE_EXHAUSTED",
        "too often": "RESOURCE_EXHAUSTED",
    }


async def test_a_stream_has_its_id_before_its_end(edge):
    async with edge.channel(edge.tenant_port) as channel:
        call = channel.unary_stream(STREAM)(b"", metadata=edge.caller(), timeout=5)
        await call.read()
        first = dict(await call.initial_metadata())[REQUEST_ID]
        call.cancel()
    (line,) = map(json.loads, await edge.log_lines(1))
    assert line["request_id"] == first


async def test_the_log_names_holder_and_key_as_they_were_verified(edge):
    """Never as a header says; nothing where no key was verified."""
    forged = [("x-tenantry-tenant-uid", "t9"), ("x-tenant-id", "t9")]
    expired = [bearer(edge.token(edge.config, Audience.INFERENCE, seconds=-60, subject="t8"))]
    asked = [
        (edge.tenant_port, ASK, [*edge.caller("t1"), *forged]),
        (edge.tenant_port, ASK, [*expired, *forged]),
        (edge.tenant_port, f"{INFERENCE}{'a' * 400}", []),
        (edge.operations_port, EDIT, [*edge.operator(), *forged]),
        (edge.operations_port, READ, [bearer(edge.token(edge.audit, Audience.REVIEW, subject="t5"))]),
    ]
    ids = [(await ids_of(edge, port, path, metadata))[0][0] for port, path, metadata in asked]
    lines = {line["request_id"]: line for line in map(json.loads, await edge.log_lines(len(asked)))}
    caller, expired_one, no_key, operator, reviewer = (lines[request_id] for request_id in ids)
    assert (caller["tenant_uid"], caller["key_id"]) == ("t1", "k1")
    assert f"unix:{caller['upstream']}" in edge.spec.upstreams.router.endpoints
    assert (caller["grpc_status"], caller["status"], caller["path"]) == ("OK", 200, ASK)
    assert caller["received_bytes"] > 0
    assert caller["sent_bytes"] > 0
    for line in (expired_one, no_key):
        assert (line["tenant_uid"], line["key_id"], line["upstream"]) == (None, None, None)
        assert line["grpc_status"] == "UNAUTHENTICATED"
    assert len(no_key["path"]) == 256
    assert (operator["operator"], operator["key_id"], operator["tenant_uid"]) == ("admin", "k1", None)
    assert (reviewer["tenant_uid"], reviewer["grant_id"], reviewer["operator"]) == ("t5", "k1", None)
    assert "t9" not in json.dumps(list(lines.values()))


async def test_ids_of_many_requests_differ(edge):
    answers = await asyncio.gather(*(ids_of(edge, edge.tenant_port, ASK, edge.caller()) for _ in range(50)))
    assert len({answered[0] for answered, _ in answers}) == 50
