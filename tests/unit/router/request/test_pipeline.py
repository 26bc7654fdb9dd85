from __future__ import annotations

import asyncio

import pytest
from tenantry.config.v1 import tenant_pb2
from tenantry.inference.v1 import inference_service_pb2 as pb

from services.common.errors import (
    Error,
    FailedPreconditionError,
    NotFoundError,
    Reason,
    UnauthenticatedError,
    UnavailableError,
)
from services.common.rpc.status import to_status
from services.common.tokens import CONFIG_ISSUER, Audience, Claims, TokenVerifier
from services.router.request import identity, pipeline
from services.router.request.pipeline import Call
from services.router.request.shaping import shape
from services.router.stages import FinishReason
from tests.fakes.manual_clock import ManualClock
from tests.fakes.mutants import without
from tests.fakes.router_config import BASE_MODEL, FAR_FUTURE_SECONDS, ConfigWorld, tiny_rendition
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


async def test_an_answer_has_text_usage_and_reason(world):
    exchange = await world.pipeline.run(world.call("uid-acme"), None)
    assert exchange.text == "hello world"
    assert exchange.finish_reason is FinishReason.END
    assert exchange.generation.output_tokens == len(world.server.answer)
    assert exchange.shaped.cost.input_tokens == len(world.server.requests[0].input_ids)
    assert world.leaks() == []


async def test_as_many_tokens_as_allowed_is_the_limit(world):
    parameters = pb.SamplingParameters(max_output_tokens=len(world.server.answer) - 1)
    exchange = await world.pipeline.run(world.call("uid-acme", parameters=parameters), None)
    assert exchange.finish_reason is FinishReason.LENGTH
    assert exchange.generation.output_tokens == len(world.server.answer) - 1


async def test_a_stop_sequence_ends_the_work_at_the_server(world):
    parameters = pb.SamplingParameters(stop_sequences=["lo w"])
    exchange = await world.pipeline.run(world.call("uid-acme", parameters=parameters), None)
    assert exchange.text == "hel"
    assert exchange.finish_reason is FinishReason.STOP_SEQUENCE
    assert world.server.cancelled == 1
    assert world.leaks() == []


async def test_an_emoji_in_four_tokens_is_one_piece(world):
    tokeniser = world.state.snapshot().tenants["uid-acme"].targets["chat"].base_model.text.tokeniser
    byte_tokens = {raw: token_id for token_id, raw in enumerate(tokeniser.token_bytes)}
    world.server.answer = [byte_tokens[bytes([value])] for value in "🗼".encode()]
    exchange = await world.pipeline.run(world.call("uid-acme"), None)
    assert exchange.generation.text_parts == ["🗼"]


async def test_the_servers_id_is_not_the_callers(world):
    exchange = await world.pipeline.run(world.call("uid-acme"), None)
    assert world.server.requests[0].request_id != exchange.identified.request_id
    await world.pipeline.run(world.call("uid-acme"), None)
    assert len({request.request_id for request in world.server.requests}) == 2


def issued(world, audience, **claims):
    fields = {"key_id": "key-uid-acme", "subject": "uid-acme", "expire_seconds": FAR_FUTURE_SECONDS} | claims
    return "Bearer " + world.issuer.issue(
        audience, Claims(scopes=(), role="", role_tenant_uid="", **fields), 1
    )


SPOILS = {
    "no key": lambda world: (None, None),
    "not a key": lambda world: ("Bearer nonsense", None),
    "no such key": lambda world: (world.token("uid-acme", "no-such-key"), None),
    "another tenant's key id": lambda world: (world.token("uid-toned", "key-uid-acme"), None),
    "another scope": lambda world: (world.token("uid-acme", "key-uid-acme", scopes=("other",)), None),
    "another audience": lambda world: (issued(world, Audience.OPERATOR), None),
    "expired": lambda world: (issued(world, Audience.INFERENCE, expire_seconds=1), None),
    "revoked": lambda world: (None, lambda config: config.key("uid-acme", "key-uid-acme", revoked=True)),
    "expired by its record": lambda world: (
        None,
        lambda config: config.key("uid-acme", "key-uid-acme", expire=1),
    ),
    "its tenant is gone": lambda world: (None, lambda config: config.resources.pop("tenants/uid-acme")),
}


async def spoiled(world, what):
    """The status of a call with one thing wrong about its key; None if it was answered."""
    authorization, change = SPOILS[what](world)
    if change is not None:
        authorization = world.token("uid-acme", "key-uid-acme")
        change(world.config)
        world.apply(2)
    try:
        await world.pipeline.run(Call(received(question("x")), authorization, 5.0), None)
    except Error as error:
        return to_status(error).SerializeToString()
    finally:
        assert world.leaks() == []
    return None


@pytest.mark.parametrize("what", SPOILS)
async def test_every_doubt_about_a_key_gives_the_same_bytes(world, what):
    assert await spoiled(world, what) == to_status(UnauthenticatedError()).SerializeToString()


@pytest.mark.parametrize(
    ("what", "rule"),
    [
        ("revoked", "revoked-key"),
        ("expired by its record", "expired-key"),
        ("another tenant's key id", "key-of-another-tenant"),
        ("another scope", "key-of-another-scope"),
    ],
)
async def test_that_test_notices_each_rule_that_is_skipped(world, monkeypatch, what, rule):
    monkeypatch.setattr(pipeline, "identify", without(identity, rule).identify)
    assert await spoiled(world, what) is None


@pytest.mark.parametrize(
    ("what", "audience", "clock"),
    [
        ("expired", Audience.INFERENCE, ManualClock(wall_seconds=0.0)),
        ("another audience", Audience.OPERATOR, ManualClock()),
    ],
)
async def test_that_test_notices_a_verifier_that_takes_more(world, monkeypatch, what, audience, clock):
    verifier = TokenVerifier(world.folder / "jwks.json", CONFIG_ISSUER, audience, clock)
    monkeypatch.setattr(world.pipeline, "_verifier", verifier)
    assert await spoiled(world, what) is None


async def test_a_suspended_tenant_is_told_so(world):
    world.config.tenant("acme", 7, suspended=True)
    world.apply(2)
    error = await failure(world, world.call("uid-acme"))
    assert isinstance(error, FailedPreconditionError)
    assert error.reason is Reason.TENANT_SUSPENDED


async def refusals_of(world, field, *names):
    """The distinct bytes of the refusals of these names."""
    return {
        to_status(await failure(world, world.call("uid-acme", **{field: name}))).SerializeToString()
        for name in names
    }


async def test_a_foreign_adapter_and_model_look_like_missing_ones(world):
    assert len(await refusals_of(world, "adapter", "tone", "no-such-adapter")) == 1
    world.config.tenant("other", 9, [tenant_pb2.ModelAlias(alias="theirs", base_model=BASE_MODEL)])
    world.apply(2)
    assert len(await refusals_of(world, "model", "theirs", "no-such-model")) == 1
    error = await failure(world, world.call("uid-acme", model="theirs"))
    assert isinstance(error, NotFoundError)
    assert "theirs" not in error.message


def chatty_shape(tenant, request, *given):
    """Names what is missing."""
    try:
        return shape(tenant, request, *given)
    except NotFoundError as error:
        raise NotFoundError(f"no {request.adapter or request.model}", reason=error.reason) from None


@pytest.mark.parametrize("field", ["adapter", "model"])
async def test_that_test_notices_a_refusal_that_says_more(world, monkeypatch, field):
    monkeypatch.setattr(pipeline, "shape", chatty_shape)
    assert len(await refusals_of(world, field, "tone", "no-such-thing")) == 2


async def test_an_adapter_of_ones_own_may_be_asked_for(world):
    world.config.adapter("uid-acme", "own", 5, tiny_rendition(2))
    world.apply(2)
    exchange = await world.pipeline.run(world.call("uid-acme", adapter="own"), None)
    assert exchange.shaped.shape.binding is not None
    assert exchange.shaped.shape.binding.version.adapter == "own"
    adapter = world.server.requests[-1].adapter
    assert adapter is not None
    assert (adapter.lora_id, adapter.tenant_ordinal) == ((7 << 40) | 5, 7)


async def test_an_adapter_without_a_form_for_the_pool_is_never_the_base_model(world):
    pool = world.config.resources["pools/main"].pool
    pool.adapter_dtype = "float32"
    world.apply(2)
    error = await failure(world, world.call("uid-toned"))
    assert isinstance(error, UnavailableError)
    assert world.server.requests == []


async def test_a_miss_is_sent_again_once_for_twenty_callers(world):
    await world.pipeline.run(world.call("uid-toned"), None)
    world.server.cached.clear()
    before = world.server.weights_sent
    answers = await asyncio.gather(*(world.pipeline.run(world.call("uid-toned"), None) for _ in range(20)))
    assert {answer.text for answer in answers} == {"hello world"}
    assert world.server.weights_sent - before == 1
    assert world.leaks() == []


async def test_a_first_use_by_twenty_callers_sends_the_weights_once(world):
    answers = await asyncio.gather(*(world.pipeline.run(world.call("uid-toned"), None) for _ in range(20)))
    assert {answer.text for answer in answers} == {"hello world"}
    assert world.server.weights_sent == 1


async def test_a_full_adapter_cache_is_waited_for_and_then_admitted_to(world, monkeypatch):
    monkeypatch.setattr("services.router.backends.dispatch._CACHE_FULL_CAP_SECONDS", 0.001)
    world.server.cache_full_times = 2
    exchange = await world.pipeline.run(world.call("uid-toned"), None)
    assert exchange.text == "hello world"
    world.server.cache_full_times = 1000
    error = await failure(world, world.call("uid-toned"))
    assert (type(error), error.reason) == (UnavailableError, Reason.ADAPTERS_BUSY)
    assert error.retry_after_seconds
    assert all(request.adapter is not None for request in world.server.requests)


async def test_a_broken_server_is_told_plainly_and_left_alone(world):
    world.server.broken = True
    error = await failure(world, world.call("uid-acme"))
    assert (type(error), error.reason) == (UnavailableError, Reason.MODEL_SERVER_FAILED)
    assert len(world.server.requests) == 1
    again = asyncio.create_task(failure(world, world.call("uid-acme")))
    while not world.pool().queued:  # noqa: ASYNC110 - the pool has no event of its own
        await asyncio.sleep(0)
    # Whether it is the server or the one stream shows when it is probed.
    world.pool().probed("server", ready=False)
    refused = await again
    assert refused.reason is Reason.NO_READY_ENDPOINT
    assert refused.retry_after_seconds


async def test_after_the_first_token_nothing_is_sent_again(world):
    world.server.fail_after = 2
    error = await failure(world, world.call("uid-toned"))
    assert error.reason is Reason.MODEL_SERVER_FAILED
    assert len(world.server.requests) == 1
