"""Finds fields and enum values that the contract does not know; accepting them would mean ignoring them. Pure."""

from __future__ import annotations

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from services.common.errors import FieldViolation

_LISTED_BYTES = 1 << 10


def unknown_violations(message: Message, path: str) -> list[FieldViolation]:
    """Every message with unknown fields and every unknown enum value, named by its path."""
    found = []
    if has_unknown_fields(message):
        found.append(FieldViolation(path, "is not known to this version"))
    for descriptor, value in message.ListFields():
        where = f"{path}.{descriptor.name}"
        if descriptor.enum_type is not None:
            values = value if descriptor.is_repeated else [value]
            unknown = [number for number in values if number not in descriptor.enum_type.values_by_number]
            if unknown:
                what = f"is {unknown[0]}, which is not known to this version: {choices(descriptor.enum_type)}"
                found.append(FieldViolation(where, what))
        elif descriptor.message_type is not None:
            if descriptor.is_repeated:
                for number, item in enumerate(value):
                    found += unknown_violations(item, f"{where}[{number}]")
            else:
                found += unknown_violations(value, where)
    return found


def choices(enum: EnumDescriptor) -> str:
    """The values of an enum that may be set, for a message: `choose A, B or C`."""
    names = [value.name for value in enum.values if value.number]
    return f"choose {', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else f"choose {names[0]}"


def has_unknown_fields(message: Message) -> bool:
    """Whether a message itself has fields that the contract does not know; those of messages in it do not count."""
    if message.ByteSize() <= _LISTED_BYTES:
        return len(UnknownFieldSet(message)) > 0
    # Listing 100,000 unknown fields takes 0.1 s; the size left without the known ones takes none.
    rest = type(message)()
    rest.CopyFrom(message)
    for field, _ in rest.ListFields():
        rest.ClearField(field.name)
    return rest.ByteSize() > 0
