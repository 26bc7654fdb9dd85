"""What becomes of one request: filled in step by step, read by the answer, the audit log and the metrics."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from enum import Enum

from tenantry.inference.v1 import inference_service_pb2 as pb

from services.common.audit.writer import AuditReceipt
from services.router.pool.pool import Cost
from services.router.request.identity import Caller
from services.router.request.shaping import Shape


class FinishReason(Enum):
    """Why generation ended; the values are the contract's."""

    END = pb.FINISH_REASON_END
    STOP_SEQUENCE = pb.FINISH_REASON_STOP_SEQUENCE
    LENGTH = pb.FINISH_REASON_LENGTH


@dataclass(slots=True)
class Exchange:
    """One request on its way. Times are seconds of the monotonic clock, unless they say otherwise."""

    caller: Caller
    request: pb.GenerateRequest
    stale: bool
    arrived_at: float
    arrived_wall_seconds: float
    request_id: str = field(default_factory=lambda: secrets.token_hex(16))
    """Unguessable; shown to the caller, and never the id model servers see."""
    shape: Shape | None = None
    cost: Cost | None = None
    prompt_json: bytes | None = None
    """The prompt's audit section, where it was so long that it had to be spelled out to be measured."""
    dispatched_at: float | None = None
    first_token_at: float | None = None
    last_token_at: float | None = None
    ended_at: float | None = None
    fruitless: bool = False
    """Whether its server failed before the first token: the prompt is not charged."""
    output_tokens: int = 0
    text_parts: list[str] = field(default_factory=list)
    """What the model says, as it comes."""
    guarded_text: str | None = None
    """The answer with what guardrails replaced; None where they did not."""
    input_rule_ids: tuple[str, ...] = ()
    """Guardrails that matched what the caller said."""
    output_rule_ids: tuple[str, ...] = ()
    """Guardrails that matched the answer."""
    finish_reason: FinishReason | None = None
    admit_begun: bool = False
    """Whether an admit entry may have left: from here on there must be an outcome entry."""
    admit_receipt: AuditReceipt | None = None
    outcome_receipt: AuditReceipt | None = None

    @property
    def charged_input_tokens(self) -> int:
        """Of the prompt: all of it once it left for a server, unless nothing came of it."""
        if self.cost is None or self.dispatched_at is None or self.fruitless:
            return 0
        return self.cost.input_tokens

    @property
    def text(self) -> str:
        """The answer so far, as the caller may see it."""
        return self.generated_text if self.guarded_text is None else self.guarded_text

    @property
    def generated_text(self) -> str:
        """The answer so far, as the model gave it: for guardrails and the audit log."""
        return "".join(self.text_parts)
