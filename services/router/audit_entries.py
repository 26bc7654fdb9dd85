"""What a request's audit entries say: sections of canonical JSON, digests and counts but no secrets.

Integers beyond 2^53 are text, since JSON numbers are doubles (RFC 8785, section 3.2.2.3).
"""

from __future__ import annotations

from typing import Any

from services.router.exchange import Exchange


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
    return meta


def prompt_section(exchange: Exchange) -> dict[str, Any]:
    """What was put to the model, the tenant's system prompt included."""
    assert exchange.shape is not None
    prompt = exchange.shape.prompt
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
            "input_tokens": exchange.cost.input_tokens if exchange.dispatched_at is not None else 0,
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
    return meta


def answer_section(exchange: Exchange) -> dict[str, Any] | None:
    """What the model said, as far as it came."""
    return {"text": exchange.text} if exchange.text_parts else None
