"""A request's demand on a pool. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cost:
    """The most tokens a request can use."""

    input_tokens: int
    max_output_tokens: int

    @property
    def tokens(self) -> int:
        """KV cache it can fill."""
        return self.input_tokens + self.max_output_tokens


@dataclass(frozen=True, slots=True)
class Demand:
    """One request, as queue and endpoints see it."""

    tenant_uid: str
    cost: Cost
    lora_id: int | None
    """The adapter it needs; None for the bare base model."""
