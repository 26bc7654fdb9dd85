"""The answer to one demo tenant's question, or the reason for none."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, with what made it."""

    tenant: str
    adapter: str
    config_version: int
    first_token_ms: float
    tokens_per_second: float
    text: str


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """Why a tenant got no answer."""

    tenant: str
    reason: str
    """For programs."""
    message: str
    next: str
    """The next step for a person."""
    command: str = ""
    """A command that does it."""
