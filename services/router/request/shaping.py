"""Resolves what a request asks by its tenant's rules: target, prompt and clamped parameters."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

from tenantry.inference.v1 import inference_service_pb2 as pb

from services.common.errors import (
    FieldViolation,
    InvalidArgumentError,
    NotFoundError,
    Reason,
    UnavailableError,
)
from services.common.text.templates import Turn
from services.router.request.request_fields import ROLES
from services.router.snapshot.model import ParameterRules, PriorityRules, Tenant, bind_adapter
from services.router.stages import Parameters, Shape
from services.router.text.prompt import Prompt


def caller_turns(request: pb.GenerateRequest) -> tuple[Turn, ...]:
    """The caller's text in the turns that the model will see; guardrails judge whole turns.

    The pieces of a message are one text. Leading system messages are one turn, since templates know only one.
    """
    if request.WhichOneof("input") == "prompt":
        return (Turn("user", request.prompt),)
    said = [Turn(ROLES[message.role], _text(message)) for message in request.conversation.messages]
    leading = list(itertools.takewhile(lambda turn: turn.role == "system", said))
    merged = _system_turn([turn.content for turn in leading])
    return (*merged, *said[len(leading) :])  # proven: one-system-turn


def _text(message: pb.Message) -> str:
    return "".join(part.text for part in message.content)


def shape(
    tenant: Tenant,
    request: pb.GenerateRequest,
    rng: random.Random,
    said: Sequence[Turn],
    guarded: Sequence[str] | None = None,
) -> Shape:
    """Resolve and clamp a request that `check_fields` let through.

    `said` are its `caller_turns`; `guarded` are their texts as guardrails left them, None if they replaced nothing.

    Raises:
        InvalidArgumentError: the adapter does not fit the model.
        NotFoundError: no such alias or adapter of this tenant; never says which name.
        UnavailableError: no pool serves the target now, or this router cannot use its base model.
    """
    target = tenant.targets.get(request.model or tenant.default_alias)
    if target is None:
        raise NotFoundError("no such model", reason=Reason.MODEL_NOT_FOUND)
    if not target.base_model.usable:
        raise UnavailableError("this router cannot use the model's tokeniser", reason=Reason.MODEL_UNUSABLE)
    if target.pool is None:
        raise UnavailableError("no pool serves this model", reason=Reason.NO_READY_ENDPOINT)
    adapter, binding = target.adapter, target.binding
    if request.adapter:
        versions = tenant.adapters.get(request.adapter)
        if versions is None:
            raise NotFoundError("no such adapter", reason=Reason.ADAPTER_NOT_FOUND)
        if all(version.base_model != target.base_model.name for version in versions):
            raise InvalidArgumentError(
                [FieldViolation("adapter", "made for another base model than `model`'s")]
            )
        adapter, binding = (
            request.adapter,
            bind_adapter(versions, 0, target.base_model.name, target.pool),
        )
    if adapter and binding is None:
        # Not the bare base model instead: its answer would look like the adapter's.
        raise UnavailableError("no pool serves this adapter", reason=Reason.NO_READY_ENDPOINT)
    asked = given = _prompt(request, said, target.system_prompt)
    if guarded is not None:
        turns = [Turn(turn.role, text) for turn, text in zip(said, guarded, strict=True)]
        given = _prompt(request, turns, target.system_prompt)
    return Shape(
        alias=target.alias,
        base_model=target.base_model,
        pool=target.pool,
        binding=binding,
        prompt=given,
        asked=asked,
        parameters=_parameters(request.parameters, tenant.parameters, tenant.limits.output_tokens, rng),
        priority=_priority(request.priority, tenant.priorities),
        price=tenant.price(target.base_model.name, adapter),
    )


def _priority(wanted: int, rules: PriorityRules) -> int:
    return min(wanted or rules.default_priority, rules.max_priority)


def _prompt(request: pb.GenerateRequest, said: Sequence[Turn], system_prompt: str) -> Prompt:
    if request.WhichOneof("input") == "prompt":
        return Prompt((), said[0].content, "prompt", len(said[0].content.encode()))
    # The tenant's instructions come before the caller's in the one system turn.
    own = [system_prompt] if system_prompt else []
    first = 1 if said[0].role == "system" else 0
    turns = (*_system_turn(own + [turn.content for turn in said[:first]]), *said[first:])
    return Prompt(turns, None, "conversation", sum(len(turn.content.encode()) for turn in turns))


def _system_turn(instructions: Sequence[str]) -> tuple[Turn, ...]:
    return (Turn("system", "\n\n".join(instructions)),) if instructions else ()


def _parameters(
    given: pb.SamplingParameters, rules: ParameterRules, most_tokens: int | None, rng: random.Random
) -> Parameters:
    wanted_tokens = (
        given.max_output_tokens if given.HasField("max_output_tokens") else rules.default_max_output_tokens
    )
    temperature = given.temperature if given.HasField("temperature") else rules.default_temperature
    return Parameters(
        max_output_tokens=min(wanted_tokens, rules.max_output_tokens, most_tokens or wanted_tokens),
        temperature=min(max(temperature, rules.min_temperature), rules.max_temperature),
        top_p=given.top_p if given.HasField("top_p") else rules.default_top_p,
        top_k=given.top_k if given.HasField("top_k") else rules.default_top_k,
        # The model server's own default is a constant, so that every sample would be the same.
        seed=given.seed if given.HasField("seed") else rng.getrandbits(64),
        stop_sequences=tuple(given.stop_sequences),
    )
