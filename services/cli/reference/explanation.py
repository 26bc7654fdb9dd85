"""Explains a path: as a record for programs, and as pairs of a term and its explanation for people. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from services.cli.reference.catalog import Catalog, Field, Place
from services.cli.reference.wording import bounds_words, default_words, facts, setter_words, type_words

Plain = dict[str, Any]


def as_record(catalog: Catalog, place: Place, *, recursive: bool) -> Plain:
    """A path as JSON values; `fields` holds those below it, and theirs in turn if `recursive`."""
    record: Plain = {"path": place.path}
    if place.field is not None:
        record |= _field_record(catalog, place.field)
    elif place.message is not None:
        record["about"] = place.message.about
    if place.message is not None:
        record["fields"] = [
            _below(catalog, field, f"{place.path}.{field.name}", recursive=recursive)
            for field in place.message.fields.values()
        ]
    return record


def _below(catalog: Catalog, field: Field, path: str, *, recursive: bool) -> Plain:
    if recursive and field.message in catalog.messages:
        return as_record(catalog, catalog.find(path), recursive=True)
    return {"path": path, **_field_record(catalog, field)}


def _field_record(catalog: Catalog, field: Field) -> Plain:
    """The facts of a field; those that do not apply to it are left out."""
    # 0 is a bound; what is false, empty or none does not apply.
    whole = asdict(field).items()
    record = {word: value for word, value in whole if value not in (None, "", ()) and value is not False}
    if field.default is not None:
        record["default"] = {"description": field.default.text} if field.default.text else field.default.value
    if field.enum:
        record["choices"] = [asdict(choice) for choice in catalog.enums[field.enum]]
    return record


def field_terms(catalog: Catalog, place: Place, *, recursive: bool) -> Iterator[tuple[str, str, str]]:
    """The fields below a path: name, description, and a line of facts."""
    assert place.message is not None
    found = (
        [
            (path.removeprefix(f"{place.path}."), field)
            for path, field in catalog.walk(place.message, place.path)
        ]
        if recursive
        else list(place.message.fields.items())
    )
    above = place.field.set_by if place.field is not None else ""
    for name, field in found:
        words = [type_words(field), "required" if field.behaviour == "required" else ""]
        default = default_words(field)
        words += [f"default {default}" if default else "", bounds_words(field)]
        if field.set_by != above:
            words.append(f"set by {setter_words(field)}")
        yield name, field.about, " · ".join(word for word in words if word)


def fact_terms(catalog: Catalog, place: Place) -> list[tuple[str, str]]:
    """The facts of the field at a path; none for a resource."""
    if place.field is None:
        return []
    # A choice's values come one by one, with what each means.
    return [(word, value) for word, value in facts(catalog, place.field) if word != "Choices"]


def choice_terms(catalog: Catalog, place: Place) -> list[tuple[str, str]]:
    """The values of the enum at a path, each with what it means."""
    if place.field is None or not place.field.enum:
        return []
    return [(choice.name, choice.about) for choice in catalog.enums[place.field.enum]]
