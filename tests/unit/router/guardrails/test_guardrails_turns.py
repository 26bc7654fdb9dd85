"""Guardrails judge whole turns, as the model sees them, however callers split the text."""

from __future__ import annotations

import pytest
from tenantry.inference.v1 import inference_service_pb2 as pb

from services.common.errors import Reason
from services.router.request import pipeline as pipeline_module
from services.router.request import shaping
from tests.fakes.guarded_tenants import DENY, INPUT, REDACT, asked, failure, rule, said, tenants, world_of
from tests.fakes.mutants import changed, replaced
from tests.fakes.router_config import ConfigWorld

SPLIT = {
    "pieces of a message": said((pb.ROLE_USER, ["a top ", "secret"])),
    "leading system messages": said(
        (pb.ROLE_SYSTEM, ["a 99"]), (pb.ROLE_SYSTEM, ["99 b"]), (pb.ROLE_USER, ["hi"])
    ),
}


def split_rules(world: ConfigWorld) -> None:
    tenants(world)
    config = world.resources["tenants/uid-deny-in"].tenant.config
    config.guardrails.append(rule("number", DENY, INPUT, r"99\s+99"))


@pytest.mark.parametrize("split", SPLIT.values(), ids=SPLIT)
async def test_what_the_model_sees_as_one_is_judged_as_one(tmp_path, split):
    world = world_of(tmp_path, configure=split_rules)
    error = await failure(world, world.call("uid-deny-in", conversation=split))
    assert error.reason is Reason.GUARDRAIL_DENIED


@pytest.mark.parametrize(
    ("name", "careless"),
    [
        (
            "pieces of a message",
            replaced(shaping, "_text", lambda message: "\n".join(part.text for part in message.content)),
        ),
        ("leading system messages", changed(shaping, "one-system-turn", "return tuple(said)")),
    ],
)
async def test_that_test_notices_what_is_judged_in_smaller_pieces(tmp_path, monkeypatch, name, careless):
    monkeypatch.setattr(pipeline_module, "caller_turns", careless.caller_turns)
    world = world_of(tmp_path, configure=split_rules)
    await world.pipeline.run(world.call("uid-deny-in", conversation=SPLIT[name]), None)


async def test_leading_system_messages_are_redacted_as_the_one_they_become(tmp_path):
    world = world_of(tmp_path)
    config = world.config.resources["tenants/uid-redact-in"].tenant.config
    config.guardrails.append(rule("pair", REDACT, INPUT, r"left\s+right"))
    world.apply(2)
    conversation = said((pb.ROLE_SYSTEM, ["a left"]), (pb.ROLE_SYSTEM, ["right b"]), (pb.ROLE_USER, ["hi"]))
    await world.pipeline.run(world.call("uid-redact-in", conversation=conversation), None)
    assert "Be top secret. 1111-2222\n\na [redacted] b" in asked(world)
    await world.recorder.drain(1.0)
    assert world.audit.entries[0].prompt["messages"][0]["content"].endswith("a left\n\nright b")
