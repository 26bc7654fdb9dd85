"""The line after an answer: its model, adapter and config version, its tokens and its speed."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration
from tenantry.inference.v1.inference_service_pb2 import Final, FinishReason

from services.cli.clients.names import short


def summary(final: Final) -> str:
    """One line, without the parts that do not apply."""
    made_by, usage = final.provenance, final.usage
    parts = [f"model {short(made_by.model or made_by.base_model)}"]
    if made_by.adapter:
        parts.append(f"adapter {short(made_by.adapter)} v{made_by.adapter_version}")
    parts.append(f"config v{made_by.config_version}" + (" (stale)" if made_by.stale else ""))
    parts.append(f"{usage.input_tokens} tokens in, {usage.output_tokens} out")
    if final.finish_reason == FinishReason.FINISH_REASON_LENGTH:
        parts[-1] += " (cut at the limit)"
    parts.append(f"first token {_seconds(final.timing.first_token) * 1000:.0f} ms")
    speed = tokens_per_second(final)
    if speed is not None:
        parts.append(f"{speed:.1f} tokens/s")
    if made_by.HasField("outcome_receipt"):
        parts.append(f"audit #{made_by.outcome_receipt.index}")
    return " · ".join(parts)


def tokens_per_second(final: Final) -> float | None:
    """The rate of the tokens after the first, per second; None for fewer than two tokens."""
    took_seconds = _seconds(final.timing.total) - _seconds(final.timing.first_token)
    later_tokens = final.usage.output_tokens - 1
    return later_tokens / took_seconds if later_tokens > 0 and took_seconds > 0 else None


def _seconds(duration: Duration) -> float:
    return duration.ToNanoseconds() / 1e9
