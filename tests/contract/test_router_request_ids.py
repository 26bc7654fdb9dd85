"""One request id, given to the caller, is found in the router's log and in the tenant's audit log."""

from __future__ import annotations

import logging
import threading
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from tenantry.config.v1 import tenant_pb2
from tenantry.inference.v1 import inference_service_pb2 as pb
from tenantry.inference.v1 import inference_service_pb2_grpc as rpc

from services.common.audit.entry import EntryKind
from services.common.errors import Reason, ResourceExhaustedError
from services.common.rpc.channel import open_channel
from services.common.rpc.health import HealthBoard
from services.common.rpc.server import build_server
from services.router.request import servicer as servicer_module
from tests.fakes.router_config import BASE_MODEL, ConfigWorld
from tests.fakes.router_pipeline import PipelineWorld, SimulatedServer, inference_servicer, question

GIVEN = "0e9a7c1d-52b4-4f7e-9d0a-3c6b8f1e2d4a"


def tenants(world: ConfigWorld) -> None:
    alias = tenant_pb2.ModelAlias(alias="chat", base_model=BASE_MODEL)
    rule = tenant_pb2.GuardrailRule(
        rule_id="no-secrets", action=tenant_pb2.GUARDRAIL_ACTION_DENY, pattern="top secret"
    )
    settings: dict[str, dict[str, Any]] = {
        "plain": {},
        "limited": {"limits": tenant_pb2.Limits(requests_per_second=0)},
        "metered": {"quotas": [tenant_pb2.Quota(window=tenant_pb2.QUOTA_WINDOW_DAY, tokens=9)]},
        "guarded": {"guardrails": [rule]},
        "hasty": {"deadlines": tenant_pb2.Deadlines()},
    }
    settings["hasty"]["deadlines"].max_timeout.FromMilliseconds(50)
    for ordinal, (name, fields) in enumerate(settings.items(), start=1):
        uid = world.tenant(name, ordinal, [alias], **fields)
        world.key(uid, f"key-{uid}")


@pytest.fixture
async def served(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    world = PipelineWorld(tmp_path, SimulatedServer([ord("a")] * 3), configure=tenants)
    target = f"unix:{tmp_path}/router.sock"
    listener = build_server(
        listen=[target],
        register=inference_servicer(world.pipeline).register,
        service_names=[],
        health=HealthBoard([]),
    )
    await listener.start()
    try:
        async with open_channel(target) as channel:
            yield world, rpc.InferenceServiceStub(channel)
    finally:
        await listener.stop(0)


def asked(world, name: str, text: str = "hello", *ids: str):
    metadata = [("authorization", world.token(f"uid-{name}", f"key-uid-{name}"))]
    return question(text), metadata + [("x-request-id", value) for value in ids]


def ids_in(metadata) -> list[str]:
    return [value for key, value in metadata if key == "x-request-id"]


def refused_as(error: grpc.aio.AioRpcError) -> tuple[str, str]:
    """The reason and the request id of a refusal."""
    status = rpc_status.from_call(error)
    info, request = error_details_pb2.ErrorInfo(), error_details_pb2.RequestInfo()
    (packed,) = [detail for detail in status.details if detail.Is(info.DESCRIPTOR)]
    packed.Unpack(info)
    (packed,) = [detail for detail in status.details if detail.Is(request.DESCRIPTOR)]
    packed.Unpack(request)
    assert ids_in(error.trailing_metadata()) == [request.request_id]
    return info.reason, request.request_id


async def test_every_answer_names_the_request(served):
    world, stub = served
    request, metadata = asked(world, "plain", "hello", GIVEN)
    call = stub.Generate(request, metadata=metadata, timeout=5)
    assert (await call).request_id == GIVEN
    assert ids_in(await call.trailing_metadata()) == [GIVEN]
    stream = stub.StreamGenerate(request, metadata=metadata, timeout=5)
    pieces = [piece async for piece in stream]
    assert pieces[-1].final.request_id == GIVEN
    assert ids_in(await stream.initial_metadata()) == ids_in(await stream.trailing_metadata()) == [GIVEN]
    listing = stub.ListModels(pb.ListModelsRequest(), metadata=metadata, timeout=5)
    await listing
    assert ids_in(await listing.initial_metadata()) == ids_in(await listing.trailing_metadata()) == [GIVEN]
    await world.recorder.drain(1.0)
    assert {entry.meta["request_id"] for entry in world.audit.entries} == {GIVEN}
    assert all(sent.request_id != GIVEN for sent in world.server.requests)


@pytest.mark.parametrize("brought", [(), ("guess-me",), (GIVEN, GIVEN)])
async def test_a_request_without_the_edges_id_gets_one(served, brought):
    world, stub = served
    request, metadata = asked(world, "plain", "hello", *brought)
    answer = await stub.Generate(request, metadata=metadata, timeout=5)
    assert answer.request_id not in {"", *brought}


@pytest.mark.parametrize(
    ("name", "text", "reason", "recorded"),
    [
        ("metered", "hello", Reason.QUOTA_EXHAUSTED, {"limit": "quotas.day"}),
        ("limited", "hello", Reason.RATE_LIMITED, {"limit": "limits.requests_per_second"}),
        ("guarded", "top secret", Reason.GUARDRAIL_DENIED, {"rule_id": "no-secrets"}),
        ("hasty", "hello", Reason.DEADLINE_PASSED, None),
        ("plain", "hello", Reason.MODEL_SERVER_FAILED, None),
    ],
)
async def test_a_refused_request_is_found_everywhere_by_its_id(served, caplog, name, text, reason, recorded):
    world, stub = served
    if reason is Reason.QUOTA_EXHAUSTED:
        world.quotas.refusal = ResourceExhaustedError(
            "used up", reason=reason, metadata={"limit": "quotas.day"}
        )
    if reason is Reason.DEADLINE_PASSED:
        world.server.hold.clear()
    world.server.broken = reason is Reason.MODEL_SERVER_FAILED
    request, metadata = asked(world, name, text, GIVEN)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stub.Generate(request, metadata=metadata, timeout=30)
    assert refused_as(error.value) == (reason, GIVEN)
    (line,) = [record.getMessage() for record in caplog.records if GIVEN in record.getMessage()]
    assert f"request {GIVEN} failed: {reason} tenant=uid-{name} key=key-uid-{name}" in line
    assert text not in line
    await world.recorder.drain(1.0)
    world.refusals.flush()
    entries = [entry for entry in world.audit.entries if GIVEN in str(entry.meta)]
    if recorded is None:
        assert [entry.kind for entry in entries] == [EntryKind.ADMIT, EntryKind.OUTCOME]
        assert entries[-1].meta["status"] == reason
    else:
        assert [entry.kind for entry in entries] == [EntryKind.REFUSED]
        (refused,) = entries[0].meta["refused"]
        assert (refused["reason"], refused["request_ids"]) == (reason, [GIVEN])
        assert recorded.items() <= refused.items()


async def test_a_deadline_that_passes_before_the_admit_is_recorded_as_a_refusal(served, monkeypatch):
    world, stub = served
    encoder = world.pipeline._encoder
    go = threading.Event()
    encoder._threads._threads.submit(go.wait, 60)
    request, metadata = asked(world, "hasty", "long " * 1000, GIVEN)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stub.Generate(request, metadata=metadata, timeout=30)
    go.set()
    assert refused_as(error.value) == (Reason.DEADLINE_PASSED, GIVEN)
    world.refusals.flush()
    assert world.audit.entries[0].meta["refused"][0]["request_ids"] == [GIVEN]


async def test_a_caller_that_is_not_known_is_given_an_id_that_the_log_holds(served, caplog):
    _, stub = served
    metadata = [("authorization", "Bearer nonsense"), ("x-request-id", GIVEN)]
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stub.Generate(question("x"), metadata=metadata, timeout=5)
    assert refused_as(error.value) == (Reason.KEY_REFUSED, GIVEN)
    assert f"request {GIVEN} failed: KEY_REFUSED" in caplog.text
    assert "nonsense" not in caplog.text


async def test_a_bug_is_logged_under_the_id_that_its_caller_was_given(served, caplog, monkeypatch):
    world, stub = served
    monkeypatch.setattr(servicer_module, "_final", lambda answered: 1 / 0)
    request, metadata = asked(world, "plain", "hello", GIVEN)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stub.Generate(request, metadata=metadata, timeout=5)
    assert refused_as(error.value) == (Reason.INTERNAL, GIVEN)
    assert f"request {GIVEN}: unexpected ZeroDivisionError" in caplog.text
