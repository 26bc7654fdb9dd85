"""Writes values for people: enum values, times, digests, sizes."""

from __future__ import annotations

from datetime import UTC

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp


def enum_word(message: Message, field: str) -> str:
    """`active` for TENANT_STATE_ACTIVE; empty if the field is not set.

    By the contract's rule the prefix is the enum's own name, so it is dropped.
    """
    kind = message.DESCRIPTOR.fields_by_name[field].enum_type
    assert kind is not None
    value = kind.values_by_number.get(getattr(message, field))
    if value is None or value.number == 0:
        return ""
    prefix = kind.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return value.name.removeprefix(prefix).lower().replace("_", "-")


def day(time: Timestamp) -> str:
    """The day, UTC; empty if it is not set."""
    if not time.seconds:
        return ""
    return time.ToDatetime(tzinfo=UTC).strftime("%Y-%m-%d")


def when(time: Timestamp) -> str:
    """The minute, UTC; empty if it is not set."""
    if not time.seconds:
        return ""
    return time.ToDatetime(tzinfo=UTC).strftime("%Y-%m-%d %H:%MZ")


def when_exactly(time: Timestamp) -> str:
    """The second, UTC; empty if it is not set."""
    if not time.seconds:
        return ""
    return time.ToDatetime(tzinfo=UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def counted(number: int, noun: str) -> str:
    """`1 tenant`, `2 tenants`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def short_digest(sha256: str) -> str:
    """The first 12 characters of a digest, enough to distinguish two by eye."""
    return sha256[:12]


def size(size_bytes: int) -> str:
    """Bytes in the unit that needs the fewest digits."""
    if size_bytes < 1024:
        return f"{size_bytes} B"
    amount = size_bytes / 1024
    for unit in ("KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"
