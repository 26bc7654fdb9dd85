"""Guardrails on requests and answers, through the whole pipeline."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from tenantry.config.v1 import tenant_pb2
from tenantry.inference.v1 import inference_service_pb2 as pb

from services.common.errors import Code, Reason
from services.common.rpc.status import to_status
from services.router.request import pipeline as pipeline_module
from services.router.request.outbox import Outbox
from tests.fakes.guarded_tenants import (
    asked,
    failure,
    is_denied,
    outcome_of,
    said,
    tokeniser,
    world_of,
)
from tests.fakes.mutants import changed
from tests.fakes.router_pipeline import PipelineWorld, SentCall, inference_servicer, question


@pytest.fixture
def world(tmp_path) -> PipelineWorld:
    return world_of(tmp_path)


async def test_a_denied_input_is_dispatched_nowhere_and_recorded_as_a_refusal(world):
    error = await failure(world, world.call("uid-deny-in", "this is top secret, really"))
    assert is_denied(error, "no-secrets")
    assert b"really" not in to_status(error).SerializeToString()
    assert (world.server.requests, world.audit.entries) == ([], [])
    world.refusals.flush()
    (entry,) = world.audit.entries
    assert entry.meta["refused"][0]["reason"] == "GUARDRAIL_DENIED"
    assert "really" not in str(entry)


@pytest.mark.parametrize("role", [pb.ROLE_USER, pb.ROLE_SYSTEM, pb.ROLE_ASSISTANT])
async def test_every_message_is_looked_at_whole_whoever_is_said_to_speak(world, role):
    split = said((pb.ROLE_USER, ["hi"]), (role, ["a top ", "secret"]))
    assert is_denied(await failure(world, world.call("uid-deny-in", conversation=split)), "no-secrets")
    across = said((role, ["a top "]), (pb.ROLE_USER, ["secret"]))
    await world.pipeline.run(world.call("uid-deny-in", conversation=across), None)


async def test_a_raw_prompt_is_looked_at_too(world):
    call = world.call("uid-deny-in", conversation=None, prompt="top secret")
    assert is_denied(await failure(world, call), "no-secrets")


async def test_the_tenants_own_prompt_is_not(world):
    await world.pipeline.run(world.call("uid-deny-in"), None)
    assert "Be top secret." in asked(world)
    leading = said((pb.ROLE_SYSTEM, ["My card is 3333-4444."]), (pb.ROLE_USER, ["hi"]))
    await world.pipeline.run(world.call("uid-redact-in", conversation=leading), None)
    assert "Be top secret. 1111-2222\n\nMy card is [redacted]." in asked(world)


async def test_a_redacted_input_reaches_the_model_and_the_original_its_audit_log(world):
    text = "🗼 5555-6666 and 7777-8888"
    await world.pipeline.run(world.call("uid-redact-in", text), None)
    assert "🗼 [redacted] and [redacted]" in asked(world)
    await world.recorder.drain(1.0)
    admit, outcome = world.audit.entries
    assert admit.prompt["messages"][-1]["content"] == text
    assert admit.meta["guardrails"] == ["card"]
    assert "guardrails" not in outcome.meta


async def test_an_input_of_which_nothing_is_left_is_denied(world):
    assert is_denied(await failure(world, world.call("uid-redact-in", "gone")), "all-of-it")
    two = said((pb.ROLE_SYSTEM, ["1111-2222"]), (pb.ROLE_SYSTEM, ["3333-4444"]))
    config = world.config.resources["tenants/uid-redact-in"].tenant.config
    config.guardrails[0].replacement = ""
    world.apply(2)
    assert is_denied(await failure(world, world.call("uid-redact-in", conversation=two)), "card")
    rest = said((pb.ROLE_USER, ["gone"]), (pb.ROLE_USER, ["not"]))
    await world.pipeline.run(world.call("uid-redact-in", conversation=rest), None)
    assert "gone" not in asked(world)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_denied_answer_is_withheld_charged_and_kept(world, streamed):
    outbox = Outbox(1000) if streamed else None
    error = await failure(world, world.call("uid-deny-out"), outbox)
    assert is_denied(error, "no-greeting")
    if outbox is not None:
        outbox.close()
        assert await outbox.get() is None
    outcome = await outcome_of(world)
    assert outcome.meta["status"] == "GUARDRAIL_DENIED"
    assert outcome.meta["guardrails"] == ["no-greeting"]
    assert outcome.meta["usage"]["output_tokens"] == len(world.server.answer)
    assert outcome.answer == {"text": "hello world"}


@pytest.mark.parametrize("policy", ["AUDIT_POLICY_BATCH", "AUDIT_POLICY_BLOCKING_STRICT"])
async def test_tokens_of_a_withheld_answer_count(world, policy):
    config = world.config.resources["tenants/uid-deny-out"].tenant.config
    config.limits.tokens_per_minute = 2000
    config.audit_policy = tenant_pb2.AuditPolicy.Value(policy)
    world.apply(2)
    await failure(world, world.call("uid-deny-out"))
    minute = world.limiter._usage["uid-deny-out"].tokens
    usage = (await outcome_of(world)).meta["usage"]
    assert (minute.reserved, minute.spent) == (0, usage["input_tokens"] + usage["output_tokens"])
    assert usage["output_tokens"] > 0


async def test_a_redacted_answer_is_one_piece_and_its_original_is_kept(world):
    outbox = Outbox(1000)
    exchange = await world.pipeline.run(world.call("uid-redact-out"), outbox)
    assert exchange.text == "hello 🗼"
    delta = await outbox.get()
    assert delta is not None
    assert (delta.text, delta.output_tokens) == ("hello 🗼", len(world.server.answer))
    outcome = await outcome_of(world)
    assert (outcome.answer, outcome.meta["guardrails"]) == ({"text": "hello world"}, ["who"])
    assert outcome.meta["status"] == "OK"


async def test_rules_without_a_stage_are_of_both(world):
    exchange = await world.pipeline.run(world.call("uid-both", "hello you"), None)
    assert "[redacted] you" in asked(world)
    assert exchange.text == "[redacted] world"


async def test_an_answer_that_nothing_matches_is_held_back_all_the_same(world):
    world.server.answer = tokeniser(world).encode_prompt("the user said")
    world.server.hold.clear()
    outbox = Outbox(1000)
    running = asyncio.create_task(world.pipeline.run(world.call("uid-redact-out"), outbox))
    await asyncio.wait_for(world.server.begun.wait(), 5)
    world.server.hold.set()
    assert (await running).text == "the user said"
    assert outbox._parts == ["the user said"]


@pytest.mark.parametrize("name", ["deny-out", "redact-out", "both"])
async def test_an_empty_answer_stays_empty(world, name):
    world.server.answer = []
    outbox = Outbox(1000)
    exchange = await world.pipeline.run(world.call(f"uid-{name}", "x"), outbox)
    assert (exchange.text, outbox._parts) == ("", [])


@pytest.mark.parametrize(
    ("stop", "denied"), [("rld", True), ("world", False), ("o wo", False), ("lo wo", False), ("zzz", True)]
)
async def test_what_a_stop_sequence_cuts_off_is_not_looked_at(world, stop, denied):
    call = world.call("uid-deny-out", parameters=pb.SamplingParameters(stop_sequences=[stop]))
    if denied:
        assert is_denied(await failure(world, call), "no-greeting")
    else:
        assert "lo wo" not in (await world.pipeline.run(call, None)).text


async def test_tenants_without_rules_for_answers_get_theirs_token_by_token(world):
    for name in ("plain", "deny-in"):
        world.server.begun.clear()
        outbox = Outbox(1000)
        exchange = await world.pipeline.run(world.call(f"uid-{name}"), outbox)
        assert outbox._parts == exchange.generation.text_parts
        assert len(exchange.generation.text_parts) > 1


async def test_mutant_that_streams_while_it_judges_shows_a_denied_answer(tmp_path):
    careless = changed(pipeline_module, "held-back-answers", "streamed_to = outbox")
    world, outbox = world_of(tmp_path, careless.Pipeline), Outbox(1000)
    await failure(world, world.call("uid-deny-out"), outbox)
    assert "".join(outbox._parts) == "hello world"


async def test_a_caller_that_leaves_while_its_answer_is_held_back_cancels_the_work(world):
    world.server.hold.clear()
    call = world.call("uid-redact-out")
    context: Any = SentCall(question("hello"), str(call.authorization))
    stream = inference_servicer(world.pipeline).StreamGenerate(None, context)
    first = asyncio.ensure_future(anext(stream))
    await asyncio.wait_for(world.server.begun.wait(), 5)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert (world.server.cancelled, world.leaks()) == (1, [])
    assert (await outcome_of(world)).meta["status"] == "CANCELLED_BY_CALLER"


async def test_a_rule_that_does_not_compile_stops_its_tenant_and_nobody_else(world, caplog):
    caplog.set_level(logging.INFO)
    for _ in range(2):
        error = await failure(world, world.call("uid-broken"))
        assert (error.code, error.reason) == (Code.FAILED_PRECONDITION, Reason.GUARDRAIL_UNUSABLE)
        assert error.metadata == {"rule_id": "bad"}
    assert "GUARDRAIL_UNUSABLE tenant=uid-broken key=key-uid-broken rule_id=bad" in caplog.text
    assert r"(a)\1" not in caplog.text
    assert world.server.requests == []
    await world.pipeline.run(world.call("uid-plain"), None)
