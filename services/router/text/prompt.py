"""A model's input, before it is encoded. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from services.common.text.templates import Turn


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation's turns, or raw text."""

    turns: tuple[Turn, ...]
    raw: str | None
    field: str
    """The request's field it came in."""
    size_bytes: int
    """UTF-8 bytes of text, the tenant's system prompt included."""
