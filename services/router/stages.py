"""A request's state after each step: Identified, Shaped, Admitted, Answered.

Each stage is frozen and holds the one before it, so that audit entries, metrics and logs take the stage that a request
reached, however it ended. Only a `Generation` grows, while the model server answers. Times are seconds of the monotonic
clock, unless their names say otherwise. Pure, and below every folder that takes part in a request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TypeAlias

from services.common.audit.entry import AuditReceipt
from services.router.pool.demand import Cost, Demand
from services.router.snapshot.model import AdapterBinding, BaseModel, PoolConfig, Tenant, TokenPrice
from services.router.text.prompt import Prompt


@dataclass(frozen=True, slots=True)
class Parameters:
    """How tokens are chosen, after the tenant's defaults and bounds."""

    max_output_tokens: int
    temperature: float
    """0 is greedy."""
    top_p: float
    top_k: int
    """0 keeps all."""
    seed: int
    stop_sequences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Shape:
    """A request's demands, made concrete by its tenant's rules."""

    alias: str
    base_model: BaseModel
    pool: PoolConfig
    binding: AdapterBinding | None
    prompt: Prompt
    """The model's input."""
    asked: Prompt
    """The same before guardrails replaced anything; the audit log keeps this one."""
    parameters: Parameters
    priority: int
    """1 low, 2 normal, 3 high; among the tenant's own requests."""
    price: TokenPrice | None = None
    """What its tokens cost; None for nothing."""


class FinishReason(Enum):
    """Why generation ended."""

    END = auto()
    STOP_SEQUENCE = auto()
    LENGTH = auto()


@dataclass(frozen=True, slots=True)
class Identified:
    """A call whose key is verified: for which tenant, under which config, until when."""

    request_id: str
    tenant: Tenant
    key_id: str
    stale: bool
    """Whether the router had lost touch with the config service."""
    arrived_at: float
    arrived_wall_seconds: float
    deadline: float


@dataclass(frozen=True, slots=True)
class Shaped:
    """A request that may be admitted: guarded, encoded, and its cost known."""

    identified: Identified
    shape: Shape
    input_ids: list[int]
    cost: Cost
    input_rule_ids: tuple[str, ...]
    """Guardrails that matched what the caller said."""
    correlation_id: str
    client_metadata: Mapping[str, str]

    @property
    def tenant(self) -> Tenant:
        """Whose request it is."""
        return self.identified.tenant

    @property
    def demand(self) -> Demand:
        """Its demand on its pool."""
        binding = self.shape.binding
        return Demand(
            tenant_uid=self.tenant.tenant_uid,
            cost=self.cost,
            lora_id=None if binding is None else binding.rendition.lora_id,
            weight=self.tenant.weight,
            priority=self.shape.priority,
            deadline=self.identified.deadline,
        )


@dataclass(slots=True)
class Generation:
    """The model server's output so far."""

    charged_input_tokens: int
    """Of the prompt; 0 once its server failed before the first token."""
    output_tokens: int = 0
    first_token_at: float | None = None
    text_parts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The answer so far, as the model gave it: for guardrails and the audit log."""
        return "".join(self.text_parts)


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request with a place at an endpoint, about to be sent or sent."""

    shaped: Shaped
    admit_receipt: AuditReceipt | None
    dispatched_at: float
    generation: Generation

    @property
    def tenant(self) -> Tenant:
        """Whose request it is."""
        return self.shaped.tenant


@dataclass(frozen=True, slots=True)
class Answered:
    """A request whose answer is whole."""

    admitted: Admitted
    finish_reason: FinishReason
    last_token_at: float
    text: str
    """The answer as the caller may see it."""
    output_rule_ids: tuple[str, ...] = ()
    """Guardrails that matched the answer."""
    outcome_receipt: AuditReceipt | None = None

    @property
    def shaped(self) -> Shaped:
        """The request as shaped."""
        return self.admitted.shaped

    @property
    def identified(self) -> Identified:
        """The call."""
        return self.admitted.shaped.identified

    @property
    def tenant(self) -> Tenant:
        """Whose request it is."""
        return self.admitted.tenant

    @property
    def generation(self) -> Generation:
        """The model server's output."""
        return self.admitted.generation


Stage: TypeAlias = Identified | Shaped | Admitted | Answered


def admitted_of(stage: Stage) -> Admitted | None:
    """The admission of a request that came so far."""
    if isinstance(stage, Answered):
        return stage.admitted
    return stage if isinstance(stage, Admitted) else None
