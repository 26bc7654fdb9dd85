"""Faults during a request: the model server forgets its adapters, the audit service goes away."""

from __future__ import annotations

import asyncio

import pytest
from tenantry.config.v1 import tenant_pb2

from services.common.audit.writer import EntryKind
from services.common.errors import DeadlineExceededError, Reason, UnavailableError
from services.router.audit import recorder
from services.router.backends import dispatch
from services.router.backends.backend import AdapterMissError, DispatchRequest
from tests.fakes.mutants import without
from tests.fakes.router_config import BASE_MODEL, ConfigWorld, tiny_rendition
from tests.fakes.router_pipeline import InstantWeights, PipelineWorld, SimulatedServer

POLICIES = {
    "blocking": tenant_pb2.AUDIT_POLICY_BLOCKING,
    "batch": tenant_pb2.AUDIT_POLICY_BATCH,
}


def tenants(world: ConfigWorld) -> None:
    for ordinal, (name, policy) in enumerate(POLICIES.items(), start=1):
        alias = tenant_pb2.ModelAlias(alias="chat", base_model=BASE_MODEL, adapter="tone")
        uid = world.tenant(name, ordinal, [alias], audit_policy=policy)
        world.key(uid, f"key-{uid}")
        world.adapter(uid, "tone", 1, tiny_rendition(1))


class Forgetful(SimulatedServer):
    """Holds no adapter, not even one it was just sent."""

    def _take_adapter(self, request: DispatchRequest) -> None:
        assert request.adapter is not None
        assert len(self.requests) < 10, "it is asked for ever"
        raise AdapterMissError(request.adapter.lora_id)


def forgetful(folder) -> PipelineWorld:
    world = PipelineWorld(folder, Forgetful([ord("a")]), configure=tenants)
    ledger = next(iter(world.pool()._endpoints)).ledger
    # A wrong estimate, so that the first attempt goes without the weights.
    ledger.use((1 << 40) | 1)
    ledger.loaded((1 << 40) | 1, ledger.epoch)
    ledger.release((1 << 40) | 1, ledger.epoch)
    return world


async def test_a_server_that_forgets_again_is_an_error_after_one_resend(tmp_path):
    world = forgetful(tmp_path)
    with pytest.raises(UnavailableError) as error:
        await world.pipeline.run(world.call("uid-blocking"), None)
    assert error.value.reason is Reason.ADAPTERS_BUSY
    sent = [request.adapter.weights is not None for request in world.server.requests if request.adapter]
    assert sent == [False, True]
    ids = {request.request_id for request in world.server.requests}
    assert len(ids) == 2
    assert world.leaks() == []


async def test_that_test_notices_a_loop(tmp_path):
    world = forgetful(tmp_path)
    looping = without(dispatch, "one-resend")
    world.pipeline._dispatcher = looping.Dispatcher(
        {"TRTLLM_ENGINE": world.server}, InstantWeights(), world.clock, world.pipeline._metrics
    )
    # It resends for ever, or waits for ever for the sender of the weights, which is itself.
    with pytest.raises((AssertionError, DeadlineExceededError)):
        await world.pipeline.run(world.call("uid-blocking", timeout_seconds=0.2), None)


@pytest.mark.parametrize("how", ["refuses", "hangs"])
@pytest.mark.parametrize("name", POLICIES)
async def test_an_audit_service_that_goes_mid_request_costs_these_policies_no_answer(
    tmp_path, monkeypatch, name, how
):
    monkeypatch.setattr(recorder, "_BLOCKING_SECONDS", 5.0)
    server = SimulatedServer([])
    world = PipelineWorld(tmp_path, server, configure=tenants)
    tokeniser = world.state.snapshot().tenants[f"uid-{name}"].targets["chat"].base_model.text.tokeniser
    server.answer = tokeniser.encode_prompt("hello world")
    server.hold.clear()
    running = asyncio.create_task(world.pipeline.run(world.call(f"uid-{name}"), None))
    await asyncio.wait_for(server.begun.wait(), 5)
    # The admit is durable; from here on nothing is, and waits for it end at once.
    monkeypatch.setattr(recorder, "_BLOCKING_SECONDS", 0.05)
    world.audit.down = how == "refuses"
    world.audit.durable.clear()
    server.hold.set()
    exchange = await asyncio.wait_for(running, 5)
    assert exchange.text == "hello world"
    assert exchange.outcome_receipt is None
    assert world.leaks() == []
    world.audit.durable.set()
    await world.recorder.drain(1.0)
    kinds = [entry.kind for entry in world.audit.entries]
    # A delayed entry is written in the end; an entry that the writer has no room for is not.
    lost = how == "refuses" and name == "blocking"
    assert kinds == [EntryKind.ADMIT] + ([] if lost else [EntryKind.OUTCOME])


async def test_a_router_that_stops_tells_those_it_ends_and_takes_nobody_else(tmp_path):
    world = PipelineWorld(tmp_path, SimulatedServer([ord("a")] * 3), configure=tenants)
    world.server.hold.clear()
    running = asyncio.create_task(world.pipeline.run(world.call("uid-blocking"), None))
    await asyncio.wait_for(world.server.begun.wait(), 5)
    await world.pipeline.stop(0.0)
    for request in (running, world.pipeline.run(world.call("uid-blocking"), None)):
        with pytest.raises(UnavailableError) as error:
            await request
        assert error.value.reason is Reason.SHUTTING_DOWN
    assert world.leaks() == []
    await world.recorder.drain(1.0)
    assert world.audit.entries[-1].meta["status"] == "SHUTTING_DOWN"
