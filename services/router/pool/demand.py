"""A request's demand on a pool. Pure."""

from __future__ import annotations

from dataclasses import dataclass

INPUT_TOKEN_SERVICE = 1
OUTPUT_TOKEN_SERVICE = 2
"""Service of one token: VTC's w_p and w_q, in the ratio of the paper (Sheng et al., OSDI'24, section 3.1)."""


@dataclass(frozen=True, slots=True)
class Cost:
    """The most tokens a request can use."""

    input_tokens: int
    max_output_tokens: int

    @property
    def tokens(self) -> int:
        """KV cache it can fill."""
        return self.input_tokens + self.max_output_tokens

    @property
    def input_service(self) -> int:
        """Service of its prompt."""
        return INPUT_TOKEN_SERVICE * self.input_tokens

    @property
    def service(self) -> int:
        """The most service it can be given."""
        return self.input_service + OUTPUT_TOKEN_SERVICE * self.max_output_tokens


@dataclass(frozen=True, slots=True)
class Demand:
    """One request, as queue and endpoints see it."""

    tenant_uid: str
    cost: Cost
    lora_id: int | None
    """The adapter it needs; None for the bare base model."""
    weight: int = 100
    """Its tenant's share, relative to other tenants' weights."""
    priority: int = 2
    """1 low, 2 normal, 3 high; among its tenant's own requests."""
    deadline: float = float("inf")
    """Seconds of the monotonic clock."""
