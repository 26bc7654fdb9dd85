from __future__ import annotations

import asyncio

import pytest
from google.protobuf.duration_pb2 import Duration
from tenantry.config.v1 import tenant_pb2
from tenantry.inference.v1 import inference_service_pb2 as pb

from services.common.errors import (
    DeadlineExceededError,
    Error,
    InvalidArgumentError,
    Reason,
    ResourceExhaustedError,
    UnavailableError,
)
from services.router.request.pipeline import Call
from services.router.snapshot.config_state import ConfigState
from tests.fakes.manual_clock import ManualClock
from tests.fakes.router_config import BASE_MODEL, ConfigWorld, tiny_rendition
from tests.fakes.router_pipeline import PipelineWorld, SimulatedServer, question, received


def tenants(world: ConfigWorld) -> None:
    plain = world.tenant("acme", 7)
    alias = tenant_pb2.ModelAlias(alias="chat", base_model=BASE_MODEL, adapter="tone")
    toned = world.tenant("toned", 8, [alias])
    world.adapter(toned, "tone", 1, tiny_rendition(1))
    for uid in (plain, toned):
        world.key(uid, f"key-{uid}")


@pytest.fixture
def world(tmp_path) -> PipelineWorld:
    made = PipelineWorld(tmp_path, SimulatedServer([]), configure=tenants)
    vocabulary = made.state.snapshot().tenants["uid-acme"].targets["chat"].base_model.text.tokeniser
    made.server.answer = vocabulary.encode_prompt("hello world")
    return made


async def failure(world: PipelineWorld, call: Call) -> Error:
    with pytest.raises(Error) as error:
        await world.pipeline.run(call, None)
    assert world.leaks() == []
    return error.value


async def test_too_long_a_prompt_names_limit_and_actual(world):
    limits = tenant_pb2.Limits(input_tokens=4)
    world.config.tenant("acme", 7, limits=limits)
    world.apply(2)
    error = await failure(world, world.call("uid-acme", "hello hello hello"))
    assert isinstance(error, InvalidArgumentError)
    assert error.violations[0].field == "conversation"
    assert "at most 4" in error.violations[0].description


async def test_every_wrong_field_is_named_at_once(world):
    parameters = pb.SamplingParameters(
        max_output_tokens=0, temperature=float("nan"), top_p=0, top_k=-1, stop_sequences=["", "x" * 257]
    )
    error = await failure(
        world,
        world.call(
            "uid-acme",
            parameters=parameters,
            conversation=pb.Conversation(messages=[pb.Message()]),
            correlation_id="x" * 129,
            client_metadata={"k" * 65: "v" * 513},
        ),
    )
    assert isinstance(error, InvalidArgumentError)
    assert {violation.field for violation in error.violations} == {
        "conversation.messages[0].role",
        "conversation.messages[0].content",
        "parameters.max_output_tokens",
        "parameters.temperature",
        "parameters.top_p",
        "parameters.top_k",
        "parameters.stop_sequences[0]",
        "parameters.stop_sequences[1]",
        "correlation_id",
        "client_metadata",
    }


async def test_values_are_clamped_to_the_tenants_bounds(world):
    bounds = tenant_pb2.ParameterBounds(max_output_tokens=3, min_temperature=0.5, max_temperature=1.0)
    world.config.tenant("acme", 7, parameter_bounds=bounds)
    world.apply(2)
    for wanted, given in ((2.0, 1.0), (0.0, 0.5)):
        parameters = pb.SamplingParameters(max_output_tokens=100, temperature=wanted)
        await world.pipeline.run(world.call("uid-acme", parameters=parameters), None)
        sent = world.server.requests[-1].parameters
        assert (sent.max_output_tokens, sent.temperature) == (3, given)


async def test_seeds_differ_unless_they_are_asked_for(world):
    for _ in range(2):
        await world.pipeline.run(world.call("uid-acme"), None)
    first, second = (request.parameters.seed for request in world.server.requests)
    assert first != second
    await world.pipeline.run(world.call("uid-acme", parameters=pb.SamplingParameters(seed=5)), None)
    assert world.server.requests[-1].parameters.seed == 5


async def test_a_request_without_a_deadline_gets_the_tenants(world):
    deadlines = tenant_pb2.Deadlines(default_timeout=Duration(nanos=50_000_000))
    world.config.tenant("acme", 7, deadlines=deadlines)
    world.apply(2)
    world.server.hold.clear()
    error = await failure(world, world.call("uid-acme", timeout_seconds=None))
    assert isinstance(error, DeadlineExceededError)
    await world.recorder.drain(1.0)
    assert world.audit.entries[-1].meta["status"] == "DEADLINE_PASSED"


async def test_no_deadline_is_longer_than_the_tenants_longest(world):
    world.config.tenant("acme", 7, deadlines=tenant_pb2.Deadlines(max_timeout=Duration(nanos=50_000_000)))
    world.apply(2)
    world.server.hold.clear()
    assert isinstance(await failure(world, world.call("uid-acme", timeout_seconds=60)), DeadlineExceededError)


async def test_concurrency_is_the_tenants_own(world):
    world.config.tenant("acme", 7, limits=tenant_pb2.Limits(concurrent_requests=1))
    world.apply(2)
    world.server.hold.clear()
    running = asyncio.create_task(world.pipeline.run(world.call("uid-acme"), None))
    await asyncio.wait_for(world.server.begun.wait(), 5)
    with pytest.raises(ResourceExhaustedError) as refused:
        await world.pipeline.run(world.call("uid-acme"), None)
    assert refused.value.reason is Reason.CONCURRENCY_LIMITED
    other = asyncio.create_task(world.pipeline.run(world.call("uid-toned"), None))
    world.server.hold.set()
    await asyncio.gather(running, other)


async def test_tokens_a_minute_are_charged_for_what_was_used(tmp_path):
    clock = ManualClock()
    world = PipelineWorld(tmp_path, SimulatedServer([ord("a")] * 4), clock=clock, configure=tenants)
    limits = tenant_pb2.Limits(tokens_per_minute=300)
    world.config.tenant("acme", 7, limits=limits)
    world.config.tenant("toned", 8, limits=limits)
    world.apply(2)
    # Five reservations would not fit into the minute; five times the usage does.
    used = 0
    for _ in range(5):
        parameters = pb.SamplingParameters(max_output_tokens=200)
        exchange = await world.pipeline.run(world.call("uid-acme", parameters=parameters), None)
        used += exchange.shaped.cost.input_tokens + exchange.generation.output_tokens
    assert 0 < used < 300
    whole_minute = pb.SamplingParameters(max_output_tokens=300 - exchange.shaped.cost.input_tokens)
    await world.pipeline.run(world.call("uid-toned", parameters=whole_minute), None)
    error = await failure(world, world.call("uid-acme", parameters=whole_minute))
    assert isinstance(error, ResourceExhaustedError)
    assert error.reason is Reason.RATE_LIMITED
    # All of it was used within one second, which is forgotten when it is a minute old.
    assert error.retry_after_seconds == pytest.approx(61.0)
    clock.advance(61.0)
    await world.pipeline.run(world.call("uid-acme", parameters=whole_minute), None)


async def test_before_the_first_snapshot_nothing_is_served(tmp_path):
    world = PipelineWorld(tmp_path, SimulatedServer([]))
    with pytest.raises(UnavailableError) as error:
        await world.pipeline.run(Call(received(question("x")), None, 5.0), None)
    assert error.value.reason is Reason.NO_SNAPSHOT


async def test_what_a_stale_router_does_is_the_tenants_choice(tmp_path):
    clock = ManualClock()
    world = PipelineWorld(tmp_path, SimulatedServer([]), clock=clock, configure=tenants)
    world.config.tenant("toned", 8, staleness_policy=tenant_pb2.STALENESS_POLICY_REFUSE)
    world.apply(2)
    assert not (await world.pipeline.run(world.call("uid-acme"), None)).identified.stale
    clock.advance(2.1)
    assert (await world.pipeline.run(world.call("uid-acme"), None)).identified.stale
    assert (await failure(world, world.call("uid-toned"))).reason is Reason.CONFIG_STALE
    world.state.heard()
    await world.pipeline.run(world.call("uid-toned"), None)


def test_a_router_that_never_heard_is_stale():
    assert ConfigState(ManualClock()).stale


async def test_a_running_request_keeps_the_config_it_came_with(world):
    world.server.hold.clear()
    running = asyncio.create_task(world.pipeline.run(world.call("uid-acme"), None))
    await asyncio.wait_for(world.server.begun.wait(), 5)
    world.config.tenant("acme", 7, version=2, system_prompt="New.")
    world.apply(2)
    world.server.hold.set()
    assert (await running).tenant.config_version == 1
    assert (await world.pipeline.run(world.call("uid-acme"), None)).tenant.config_version == 2


async def test_the_tenants_words_come_before_the_callers(world):
    world.config.tenant("acme", 7, system_prompt="Be brief.")
    world.apply(2)
    said = [
        pb.Message(role=role, content=[pb.ContentPart(text=text)])
        for role, text in ((pb.ROLE_SYSTEM, "Be loud."), (pb.ROLE_USER, "hi"))
    ]
    call = world.call("uid-acme", conversation=pb.Conversation(messages=said))
    exchange = await world.pipeline.run(call, None)
    assert [(turn.role, turn.content) for turn in exchange.shaped.shape.prompt.turns] == [
        ("system", "Be brief.\n\nBe loud."),
        ("user", "hi"),
    ]


async def test_a_raw_prompt_has_no_template_and_no_system_prompt(world):
    world.config.tenant("acme", 7, system_prompt="Be brief.")
    world.apply(2)
    request = pb.GenerateRequest(prompt="hello")
    await world.pipeline.run(Call(received(request), world.token("uid-acme", "key-uid-acme"), 5.0), None)
    tokeniser = world.state.snapshot().tenants["uid-acme"].targets["chat"].base_model.text.tokeniser
    assert world.server.requests[0].input_ids == tokeniser.encode_prompt("hello")
