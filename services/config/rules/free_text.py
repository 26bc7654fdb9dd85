"""Checks texts that operators write freely: their length, and that they mislead no reader. Pure."""

from __future__ import annotations

from services.common.errors import FieldViolation
from services.common.misleading_text import misleading_in

MAX_DISPLAY_NAME = 128
MAX_REASON = 512


def check_display_name(name: str, path: str) -> list[FieldViolation]:
    """Check a display name: one line of at most 128 characters."""
    return _check_line(name, path, MAX_DISPLAY_NAME)


def check_reason(reason: str, path: str = "reason") -> list[FieldViolation]:
    """Check the reason of a change: one line of at most 512 characters."""
    return _check_line(reason, path, MAX_REASON)


def _check_line(text: str, path: str, most: int) -> list[FieldViolation]:
    wrong = []
    if len(text) > most:
        wrong.append(FieldViolation(path, f"has {len(text)} characters, more than {most}"))
    if character := misleading_in(text):
        wrong.append(FieldViolation(path, f"holds {character}"))
    return wrong
