"""What a request's audit entries say: sections of canonical JSON, digests and counts but no secrets.

The audit service takes sections up to a size. A request whose entry it would refuse is refused here, before
anything is done for it: otherwise a caller could choose to go unrecorded.

Integers beyond 2^53 are text, since JSON numbers are doubles (RFC 8785, section 3.2.2.3).
"""

from __future__ import annotations

import json
from typing import Any

from services.common.canonical_json import canonical_json
from services.common.errors import FieldViolation, InvalidArgumentError
from services.router.request.exchange import Exchange

MAX_META_BYTES = 64 << 10
"""The audit service's limit for the section about a request."""
MAX_CONTENT_BYTES = 1 << 20
"""Its limit for a prompt, and for an answer."""
# A control character is six bytes in JSON, the most for any byte of UTF-8.
_WORST_BYTES = 6
_FIXED_META_BYTES = 8 << 10
_TURN_BYTES = 64
_PIECE_CHARACTERS = 1024


def check_entry_sizes(exchange: Exchange) -> None:
    """Refuse a request that could not be recorded.

    Raises:
        InvalidArgumentError: names limit and actual.
    """
    assert exchange.shape is not None
    request, prompt = exchange.request, exchange.shape.asked
    told = [
        request.correlation_id,
        *request.client_metadata.keys(),
        *request.client_metadata.values(),
        *exchange.shape.parameters.stop_sequences,
        *exchange.input_rule_ids,
    ]
    # Few requests come near a limit: only those are put into JSON to be measured.
    if _FIXED_META_BYTES + _WORST_BYTES * sum(len(text.encode()) for text in told) > MAX_META_BYTES:
        _checked("client_metadata", admit_meta(exchange), MAX_META_BYTES)
    if _WORST_BYTES * prompt.size_bytes + _TURN_BYTES * (len(prompt.turns) + 1) > MAX_CONTENT_BYTES:
        exchange.prompt_json = _checked(prompt.field, _prompt_section(exchange), MAX_CONTENT_BYTES)


def _checked(field: str, section: dict[str, Any], limit: int) -> bytes:
    spelled = canonical_json(section)
    if len(spelled) > limit:
        raise InvalidArgumentError(
            [FieldViolation(field, f"{len(spelled)} bytes in the audit log's JSON; at most {limit}")]
        )
    return spelled


def admit_meta(exchange: Exchange) -> dict[str, Any]:
    """Who asks whom for what, under which rules."""
    shape, cost, tenant = exchange.shape, exchange.cost, exchange.caller.tenant
    assert shape is not None
    assert cost is not None
    parameters = shape.parameters
    meta: dict[str, Any] = {
        "request_id": exchange.request_id,
        "key_id": exchange.caller.key_id,
        "received_unix_ms": int(exchange.arrived_wall_seconds * 1000),
        "config": {
            "version": tenant.config_version,
            "sha256": tenant.config_sha256,
            "stale": exchange.stale,
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
    if exchange.request.correlation_id:
        meta["correlation_id"] = exchange.request.correlation_id
    if exchange.request.client_metadata:
        meta["client_metadata"] = dict(exchange.request.client_metadata)
    if exchange.input_rule_ids:
        meta["guardrails"] = list(exchange.input_rule_ids)
    return meta


def prompt_section(exchange: Exchange) -> dict[str, Any] | bytes:
    """What was asked, the tenant's system prompt included, before guardrails replaced anything in it.

    What the model was given follows from it: the entry names the config version, which holds the guardrails.
    """
    return _prompt_section(exchange) if exchange.prompt_json is None else exchange.prompt_json


def _prompt_section(exchange: Exchange) -> dict[str, Any]:
    assert exchange.shape is not None
    prompt = exchange.shape.asked
    if prompt.raw is not None:
        return {"prompt": prompt.raw}
    return {"messages": [{"role": turn.role, "content": turn.content} for turn in prompt.turns]}


def outcome_meta(exchange: Exchange, status: str) -> dict[str, Any]:
    """How it ended."""
    assert exchange.cost is not None
    meta: dict[str, Any] = {
        "request_id": exchange.request_id,
        "status": status,
        "usage": {
            "input_tokens": exchange.charged_input_tokens,
            "output_tokens": exchange.output_tokens,
        },
        "timing_ms": {
            name: round((moment - exchange.arrived_at) * 1000, 3)
            for name, moment in (
                ("dispatched", exchange.dispatched_at),
                ("first_token", exchange.first_token_at),
                ("ended", exchange.ended_at),
            )
            if moment is not None
        },
    }
    if exchange.finish_reason is not None:
        meta["finish_reason"] = exchange.finish_reason.name
    if exchange.output_rule_ids:
        meta["guardrails"] = list(exchange.output_rule_ids)
    return meta


def answer_section(exchange: Exchange) -> dict[str, Any] | None:
    """What the model said, as far as it came, given or withheld; `cut` where the audit service takes no more."""
    if not exchange.text_parts:
        return None
    text = exchange.generated_text
    if _WORST_BYTES * len(text.encode()) + _TURN_BYTES <= MAX_CONTENT_BYTES:
        return {"text": text}
    room = MAX_CONTENT_BYTES - _TURN_BYTES
    for place in range(0, len(text), _PIECE_CHARACTERS):
        room -= len(json.dumps(text[place : place + _PIECE_CHARACTERS], ensure_ascii=False).encode())
        if room < 0:
            return {"text": text[:place], "cut": True}
    return {"text": text}
