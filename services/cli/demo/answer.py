"""What one demo tenant got for its question."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answer:
    """What a tenant got, and what made it."""

    tenant: str
    adapter: str
    config_version: int
    first_token_ms: float
    tokens_per_second: float
    text: str


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """Why a tenant got none."""

    tenant: str
    reason: str
    """For programs."""
    message: str
    next: str
    """What to do about it."""
    command: str = ""
    """A command that does it."""
