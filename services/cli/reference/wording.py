"""Facts about fields as people read them. Pure."""

from __future__ import annotations

import json
from typing import Any

from services.cli.reference.catalog import SERVICE, Catalog, Default, Field

_SETTERS = {
    "platform-admin": "platform-admins only",
    "tenant-admin": "platform-admins and the tenant's own admins",
    SERVICE: "the config service",
}
_CALLERS = {"platform-admin": "platform-admins, in a call", "tenant-admin": "any operator, in a call"}


def type_words(field: Field) -> str:
    """`integer`, `one of AuditPolicy`, `list of ModelAlias`."""
    kind = field.message or field.enum or field.type
    return f"list of {kind}" if field.repeated else kind


def default_words(field: Field) -> str:
    """The field's value when it is unset; empty for none."""
    return "" if field.default is None else words_of(field.default)


def words_of(default: Default) -> str:
    """A default in words where it has some, else its value."""
    return default.text or value_words(default.value)


def value_words(value: Any) -> str:
    """A value as a document spells it."""
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def bounds_words(field: Field) -> str:
    """Every bound of a field in one phrase; empty for none."""
    parts = []
    if field.above is not None:
        parts.append(f"above {field.above}, at most {field.maximum}")
    elif field.minimum is not None and field.maximum is not None:
        parts.append(f"{field.minimum} to {field.maximum}")
    elif field.minimum is not None:
        parts.append(f"at least {field.minimum}")
    for unit, bounds in (("characters", field.characters), ("bytes", field.bytes), ("items", field.items)):
        if bounds is not None:
            low, high = bounds
            parts.append(f"{low} to {high} {unit}" if low else f"at most {high} {unit}")
    if field.form:
        parts.append(f"matches {field.form}")
    if field.choices:
        parts.append(f"one of {', '.join(map(str, field.choices))}")
    return "; ".join(parts)


def setter_words(field: Field) -> str:
    """The roles that may set the field, and when."""
    if field.set_when == "call":
        return _CALLERS[field.set_by]
    at_creation = ", at creation only" if field.set_when == "creation" else ""
    return _SETTERS[field.set_by] + at_creation


def facts(catalog: Catalog, field: Field) -> list[tuple[str, str]]:
    """Everything about a field but its description, as pairs of a word and its value; none is empty."""
    found = [("Type", type_words(field))]
    if field.behaviour == "required":
        found.append(("Required", "yes"))
    found += [("Default", default_words(field)), ("Bounds", bounds_words(field))]
    if field.enum:
        found.append(("Choices", ", ".join(choice.name for choice in catalog.enums[field.enum])))
    if field.one_of:
        found.append(("One of", f"the fields of `{field.one_of}`; at most one of them is set"))
    found.append(("Set by", setter_words(field)))
    if field.sensitive:
        found.append(("Sensitive", "yes: it is sealed in etcd and never logged"))
    return [(word, value) for word, value in found if value]
