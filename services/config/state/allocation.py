"""Allocates ids that are never given out twice: tenant ordinals and adapter ids. Pure.

    lora_id (63 bits) = tenant ordinal (23) ‖ restore epoch (8) ‖ serial (32)

The router checks `lora_id >> 40 == ordinal` before every dispatch; docs/adr/0002-dialects.md.
"""

from __future__ import annotations

from services.common.errors import Reason, ResourceExhaustedError

MAX_ORDINAL = (1 << 23) - 1
MAX_EPOCH = (1 << 8) - 1
MAX_SERIAL = (1 << 32) - 1


def next_number(stored: bytes | None, limit: int, what: str) -> int:
    """The number after the highest one given out.

    Raises:
        ResourceExhaustedError: none is left.
    """
    number = int(stored) + 1 if stored else 1
    if number > limit:
        raise ResourceExhaustedError(f"no {what} is left", reason=Reason.IDS_EXHAUSTED)
    return number


def lora_id(ordinal: int, epoch: int, serial: int) -> int:
    """Compose an adapter id.

    Raises:
        ValueError: a part is out of range.
    """
    if not (1 <= ordinal <= MAX_ORDINAL and 0 <= epoch <= MAX_EPOCH and 1 <= serial <= MAX_SERIAL):
        raise ValueError("a part of an adapter id is out of range")
    return ordinal << 40 | epoch << 32 | serial
