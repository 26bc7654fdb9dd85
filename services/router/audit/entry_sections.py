"""Builds the sections of a request's audit entries: canonical JSON with digests and counts, no secrets.

The audit service takes sections up to a size. A request whose entry it would refuse is refused here, before it costs
anything: otherwise a caller could choose to go unrecorded.

Integers beyond 2^53 are text, since JSON numbers are doubles (RFC 8785, section 3.2.2.3).
"""

from __future__ import annotations

import json
from typing import Any

from services.common.canonical_json import canonical_json
from services.common.errors import FieldViolation, InvalidArgumentError
from services.router.stages import Answered, Generation, Shape, Shaped, Stage, admitted_of

MAX_META_BYTES = 64 << 10
"""The audit service's limit for the section about a request."""
MAX_CONTENT_BYTES = 1 << 20
"""Its limit for a prompt, and for an answer."""
# A control character is six bytes in JSON, the most for any byte of UTF-8.
_WORST_BYTES = 6
_FIXED_META_BYTES = 8 << 10
_TURN_BYTES = 64
_PIECE_CHARACTERS = 1024


def check_entry_sizes(shaped: Shaped) -> bytes | None:
    """Refuse a request that could not be recorded.

    Returns:
        The prompt's section, if it was so long that it had to be put into JSON to be measured.

    Raises:
        InvalidArgumentError: names limit and actual.
    """
    prompt = shaped.shape.asked
    texts = [
        shaped.correlation_id,
        *shaped.client_metadata.keys(),
        *shaped.client_metadata.values(),
        *shaped.shape.parameters.stop_sequences,
        *shaped.input_rule_ids,
    ]
    # Few requests come near a limit: only those are put into JSON to be measured.
    if _FIXED_META_BYTES + _WORST_BYTES * sum(len(text.encode()) for text in texts) > MAX_META_BYTES:
        _checked("client_metadata", admit_meta(shaped), MAX_META_BYTES)
    if _WORST_BYTES * prompt.size_bytes + _TURN_BYTES * (len(prompt.turns) + 1) <= MAX_CONTENT_BYTES:
        return None
    return _checked(prompt.field, prompt_section(shaped.shape), MAX_CONTENT_BYTES)


def _checked(field: str, section: dict[str, Any], limit: int) -> bytes:
    encoded = canonical_json(section)
    if len(encoded) > limit:
        raise InvalidArgumentError(
            [FieldViolation(field, f"{len(encoded)} bytes in the audit log's JSON; at most {limit}")]
        )
    return encoded


def admit_meta(shaped: Shaped) -> dict[str, Any]:
    """The admit's section: who asks which model for what, under which config."""
    identified, shape, cost, tenant = shaped.identified, shaped.shape, shaped.cost, shaped.tenant
    parameters = shape.parameters
    meta: dict[str, Any] = {
        "request_id": identified.request_id,
        "key_id": identified.key_id,
        "received_unix_ms": int(identified.arrived_wall_seconds * 1000),
        "config": {
            "version": tenant.config_version,
            "sha256": tenant.config_sha256,
            "stale": identified.stale,
        },
        "model": {
            "alias": shape.alias,
            "base_model": shape.base_model.name,
            "weights_sha256": shape.base_model.weights_sha256,
        },
        "parameters": {
            "max_output_tokens": cost.max_output_tokens,
            "temperature": parameters.temperature,
            "top_p": parameters.top_p,
            "top_k": parameters.top_k,
            "seed": str(parameters.seed),
            "stop_sequences": list(parameters.stop_sequences),
        },
        "input_tokens": cost.input_tokens,
    }
    if shape.binding is not None:
        version = shape.binding.version
        meta["adapter"] = {
            "adapter": version.adapter,
            "version": version.version,
            "source_sha256": version.source_sha256,
            "rendition_sha256": shape.binding.rendition.sha256,
            "lora_id": str(shape.binding.rendition.lora_id),
        }
    if shaped.correlation_id:
        meta["correlation_id"] = shaped.correlation_id
    if shaped.client_metadata:
        meta["client_metadata"] = dict(shaped.client_metadata)
    if shaped.input_rule_ids:
        meta["guardrails"] = list(shaped.input_rule_ids)
    return meta


def prompt_section(shape: Shape) -> dict[str, Any]:
    """The prompt, the tenant's system prompt included, before guardrails replaced anything in it.

    The prompt that the model was given follows from it: the entry names the config version, which has the guardrails.
    """
    prompt = shape.asked
    if prompt.raw is not None:
        return {"prompt": prompt.raw}
    return {"messages": [{"role": turn.role, "content": turn.content} for turn in prompt.turns]}


def outcome_meta(shaped: Shaped, reached: Stage, status: str, ended_at: float) -> dict[str, Any]:
    """The outcome's section: how the request ended, and what it had used by then.

    Args:
        shaped: what was asked.
        reached: the last stage.
        status: `OK`, or the reason of the failure.
        ended_at: seconds of the monotonic clock.
    """
    admitted = admitted_of(reached)
    generation = admitted.generation if admitted else Generation(charged_input_tokens=0)
    moments = (
        ("dispatched", admitted.dispatched_at if admitted else None),
        ("first_token", generation.first_token_at),
        ("ended", ended_at),
    )
    meta: dict[str, Any] = {
        "request_id": shaped.identified.request_id,
        "status": status,
        "usage": {
            "input_tokens": generation.charged_input_tokens,
            "output_tokens": generation.output_tokens,
        },
        "timing_ms": {
            name: round((moment - shaped.identified.arrived_at) * 1000, 3)
            for name, moment in moments
            if moment is not None
        },
    }
    price = shaped.shape.price
    if price is not None:
        meta["usage"]["micro_units"] = price.micro_units(
            generation.charged_input_tokens, generation.output_tokens
        )
    if isinstance(reached, Answered):
        meta["finish_reason"] = reached.finish_reason.name
        if reached.output_rule_ids:
            meta["guardrails"] = list(reached.output_rule_ids)
    return meta


def answer_section(reached: Stage) -> dict[str, Any] | None:
    """The model's answer so far, given to the caller or withheld; `cut` where the audit service takes no more."""
    admitted = admitted_of(reached)
    if admitted is None or not admitted.generation.text_parts:
        return None
    text = admitted.generation.text
    if _WORST_BYTES * len(text.encode()) + _TURN_BYTES <= MAX_CONTENT_BYTES:
        return {"text": text}
    room = MAX_CONTENT_BYTES - _TURN_BYTES
    for place in range(0, len(text), _PIECE_CHARACTERS):
        room -= len(json.dumps(text[place : place + _PIECE_CHARACTERS], ensure_ascii=False).encode())
        if room < 0:
            return {"text": text[:place], "cut": True}
    return {"text": text}
