"""Finds the faults of plain values that are meant to fill a message of the contract. Pure."""

from __future__ import annotations

import binascii
import json
import math
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

Problem = tuple[str, str]
"""A path, and what is wrong there."""
_INTEGERS = {
    FieldDescriptor.TYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.TYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.TYPE_UINT32: (0, (1 << 32) - 1),
    FieldDescriptor.TYPE_UINT64: (0, (1 << 64) - 1),
}
_MAX_FLOAT = 3.4028234663852886e38
_WELL_KNOWN: Mapping[str, tuple[Callable[[], Any], str]] = {
    "google.protobuf.Duration": (Duration, "is not a duration, for example 30s"),
    "google.protobuf.FieldMask": (FieldMask, "is not a list of fields, for example config,display_name"),
    "google.protobuf.Timestamp": (Timestamp, "is not a time, for example 2026-01-31T12:00:00Z"),
}
_SHOWN = 40


def field_problems(value: Any, kind: Any, path: str = "") -> Iterator[Problem]:
    """Everything that keeps a value from filling a message: unknown fields, wrong types, unknown choices.

    Args:
        value: JSON values.
        kind: the message's `Descriptor`.
        path: leads to the value; empty for a document.
    """
    if not isinstance(value, dict):
        yield path, f"is {_shown(value)}, not a mapping of fields"
        return
    for key, inner in value.items():
        where = f"{path}.{key}" if path else str(key)
        field = kind.fields_by_name.get(key) if isinstance(key, str) else None
        if field is None:
            yield where, not_a_field(key, kind.fields_by_name)
        elif inner is None:
            # YAML's word for a field that is not set.
            continue
        elif field.is_repeated and not isinstance(inner, list):
            yield where, f"is {_shown(inner)}, not a list"
        elif field.is_repeated:
            for place, item in enumerate(inner):
                yield from _of_one(item, field, f"{where}[{place}]")
        else:
            yield from _of_one(inner, field, where)


def not_a_field(key: object, known: Iterable[str]) -> str:
    """The fault of a field that does not exist."""
    return f"is not a field{_meant(str(key), known)}"


def not_a_choice(value: object, choices: Iterable[str]) -> str:
    """The fault of a value that is none of the choices."""
    named = list(choices)
    return f"is {_shown(value)}, not one of {', '.join(named)}{_meant(str(value), named)}"


def _meant(word: str, known: Iterable[str]) -> str:
    """`; did you mean ...?`, or nothing. `batch` means `AUDIT_POLICY_BATCH`."""
    named = list(known)
    wanted = word.upper().replace("-", "_")
    near = [name for name in named if wanted and name.endswith(f"_{wanted}")] or get_close_matches(
        word, named, n=1
    )
    return f"; did you mean {near[0]}?" if near else ""


def _of_one(value: Any, field: FieldDescriptor, path: str) -> Iterator[Problem]:
    kind = field.message_type
    if kind is not None and kind.full_name not in _WELL_KNOWN:
        yield from field_problems(value, kind, path)
        return
    problem = _well_known(value, kind) if kind is not None else _scalar(value, field)
    if problem:
        yield path, problem


def _well_known(value: Any, kind: Any) -> str:
    make, complaint = _WELL_KNOWN[kind.full_name]
    try:
        if isinstance(value, str):
            make().FromJsonString(value)
            return ""
    except (ValueError, OverflowError):
        pass
    return complaint


def _scalar(value: Any, field: FieldDescriptor) -> str:
    if field.enum_type is not None:
        return _choice(value, field.enum_type)
    if field.type in _INTEGERS:
        return _integer(value, *_INTEGERS[field.type])
    if field.type in {FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT}:
        return _number(value, _MAX_FLOAT if field.type == FieldDescriptor.TYPE_FLOAT else math.inf)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return "" if isinstance(value, bool) else f"is {_shown(value)}, not true or false"
    if not isinstance(value, str):
        return f"is {_shown(value)}, not a text; put it in quotes"
    return _bytes(value) if field.type == FieldDescriptor.TYPE_BYTES else ""


def _choice(value: Any, kind: EnumDescriptor) -> str:
    number = value if isinstance(value, int) and not isinstance(value, bool) else None
    if number in kind.values_by_number or (isinstance(value, str) and value in kind.values_by_name):
        return ""
    return not_a_choice(value, [known.name for known in kind.values if known.number])


def _integer(value: Any, low: int, high: int) -> str:
    if isinstance(value, str):
        # The JSON form of 64-bit integers.
        digits = value.removeprefix("-")
        value = int(value) if digits.isascii() and digits.isdigit() and len(digits) <= 20 else value
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole:
        return f"is {_shown(value)}, not a whole number"
    return "" if low <= value <= high else f"is {_shown(value)}, not {low} to {high}"


def _number(value: Any, most: float) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return f"is {_shown(value)}, not a number"
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return f"is {_shown(value)}, not a number"
    if not math.isfinite(number):
        return f"is {_shown(value)}, not a finite number"
    return "" if abs(number) <= most else f"is {_shown(value)}, more than fits"


def _bytes(value: str) -> str:
    try:
        b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return "is not base64"
    return ""


def _shown(value: object) -> str:
    """A value in a message: as JSON, and short."""
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
