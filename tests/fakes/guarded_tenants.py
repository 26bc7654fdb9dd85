"""Tenants with guardrails of every kind, and what their callers say and hear."""

from __future__ import annotations

from typing import Any

import pytest
from tenantry.config.v1 import tenant_pb2
from tenantry.inference.v1 import inference_service_pb2 as pb

from services.common.errors import Code, Error, Reason
from services.router.request import pipeline as pipeline_module
from services.router.request.outbox import Outbox
from services.router.request.pipeline import Call
from tests.fakes.router_config import BASE_MODEL, ConfigWorld
from tests.fakes.router_pipeline import PipelineWorld, SimulatedServer

DENY, REDACT = tenant_pb2.GUARDRAIL_ACTION_DENY, tenant_pb2.GUARDRAIL_ACTION_REDACT
INPUT, OUTPUT, BOTH = (
    tenant_pb2.GUARDRAIL_STAGE_INPUT,
    tenant_pb2.GUARDRAIL_STAGE_OUTPUT,
    tenant_pb2.GUARDRAIL_STAGE_UNSPECIFIED,
)


def rule(rule_id: str, action: Any, stage: Any, pattern: str, **more: str) -> tenant_pb2.GuardrailRule:
    return tenant_pb2.GuardrailRule(rule_id=rule_id, action=action, stage=stage, pattern=pattern, **more)


TENANTS = {
    "deny-in": [rule("other", DENY, INPUT, "zzz"), rule("no-secrets", DENY, INPUT, "top secret")],
    "redact-in": [
        rule("card", REDACT, INPUT, r"\d{4}-\d{4}"),
        rule("all-of-it", REDACT, INPUT, "^gone$", replacement=""),
    ],
    "deny-out": [rule("no-greeting", DENY, OUTPUT, "lo wo")],
    "redact-out": [rule("who", REDACT, OUTPUT, "world", replacement="🗼")],
    "both": [rule("everywhere", REDACT, BOTH, "hello")],
    "broken": [rule("fine", DENY, INPUT, "zzz"), rule("bad", DENY, OUTPUT, r"(a)\1")],
    "plain": [],
}


def tenants(world: ConfigWorld) -> None:
    for ordinal, (name, guardrails) in enumerate(TENANTS.items(), start=1):
        alias = tenant_pb2.ModelAlias(alias="chat", base_model=BASE_MODEL)
        uid = world.tenant(
            name, ordinal, [alias], guardrails=guardrails, system_prompt="Be top secret. 1111-2222"
        )
        world.key(uid, f"key-{uid}")


def world_of(folder, pipeline_class=pipeline_module.Pipeline, configure=tenants) -> PipelineWorld:
    made = PipelineWorld(folder, SimulatedServer([]), pipeline_class=pipeline_class, configure=configure)
    made.server.answer = tokeniser(made).encode_prompt("hello world")
    return made


def tokeniser(world):
    return world.state.snapshot().tenants["uid-plain"].targets["chat"].base_model.text.tokeniser


def asked(world) -> str:
    """The rendered prompt the model server was given last."""
    ids = world.server.requests[-1].input_ids
    return b"".join(tokeniser(world).token_bytes[number] for number in ids).decode()


def said(*messages: tuple[Any, list[str]]) -> pb.Conversation:
    return pb.Conversation(
        messages=[
            pb.Message(role=role, content=[pb.ContentPart(text=part) for part in parts])
            for role, parts in messages
        ]
    )


async def failure(world: PipelineWorld, call: Call, outbox: Outbox | None = None) -> Error:
    with pytest.raises(Error) as error:
        await world.pipeline.run(call, outbox)
    assert world.leaks() == []
    assert await world.recorder.drain(1.0) == 0
    return error.value


async def outcome_of(world: PipelineWorld) -> Any:
    assert await world.recorder.drain(1.0) == 0
    return world.audit.entries[-1]


def is_denied(error: Error, rule_id: str) -> bool:
    told = (error.code, error.reason, error.metadata)
    return told == (Code.FAILED_PRECONDITION, Reason.GUARDRAIL_DENIED, {"rule_id": rule_id})
