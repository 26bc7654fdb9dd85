"""Counts what a serialised message holds, before any object is made of it. Pure.

A field of two bytes becomes an object of a hundred, so that 4 MiB can come to gigabytes. The bytes are walked by the
message's own descriptor (protobuf's encoding, https://protobuf.dev/programming-guides/encoding/), up to a bound.
"""

from __future__ import annotations

from typing import Any

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10
_MAX_DEPTH = 16


class TooManyFieldsError(Exception):
    """The message holds more fields than are allowed."""


class MalformedError(Exception):
    """The bytes are no message."""


def check_fields_of(data: bytes, descriptor: Any, most: int) -> int:
    """Count the fields of a message and of all messages within it.

    Args:
        data: the serialised message.
        descriptor: of its type, `google.protobuf.descriptor.Descriptor`.
        most: fields allowed.

    Returns:
        The number of fields.

    Raises:
        TooManyFieldsError: there are more. No more than `most` are looked at.
        MalformedError: the bytes end within a field, or nest too deep.
    """
    counted = 0
    waiting = [(0, len(data), descriptor, 0)]
    while waiting:
        at, end, kind, depth = waiting.pop()
        fields = kind.fields_by_number
        while at < end:
            counted += 1
            if counted > most:
                raise TooManyFieldsError
            tag, at = _varint(data, at, end)
            wire_type = tag & 7
            if wire_type == _VARINT:
                _, at = _varint(data, at, end)
            elif wire_type == _LENGTH:
                length, at = _varint(data, at, end)
                if at + length > end:
                    raise MalformedError
                field = fields.get(tag >> 3)
                if field is not None and field.message_type is not None:
                    if depth >= _MAX_DEPTH:
                        raise MalformedError
                    waiting.append((at, at + length, field.message_type, depth + 1))
                at += length
            elif wire_type in (_FIXED64, _FIXED32):
                at += 8 if wire_type == _FIXED64 else 4
            else:
                # Groups are not in any of our messages.
                raise MalformedError
            if at > end:
                raise MalformedError
    return counted


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    for place in range(at, min(at + _MAX_VARINT_BYTES, end)):
        byte = data[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place + 1
        shift += 7
    raise MalformedError
