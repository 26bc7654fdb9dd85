"""A spec out of a document: YAML or JSON that has been parsed. Every violation names its field."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from services.edge import spec as kinds
from services.edge.spec import EdgeSpec

_CLASSES = {
    kind.__name__: [item.name for item in fields(kind)]
    for kind in (
        kinds.EdgeLimits,
        kinds.EdgeSpec,
        kinds.KeySets,
        kinds.Listeners,
        kinds.Source,
        kinds.TlsListener,
        kinds.Upstream,
        kinds.Upstreams,
        kinds.UpstreamTls,
    )
}
_NAMES = sorted({name for names in _CLASSES.values() for name in names})
_READER = TypeAdapter(EdgeSpec)
_MAX_DEPTH = 16

Violation = tuple[str, str]
"""A field's path in the document, and its fault."""


class SpecError(Exception):
    """A document that is no spec; holds every violation, never a value that may be secret."""

    def __init__(self, violations: Sequence[Violation]) -> None:
        self.violations = tuple(violations)
        super().__init__("; ".join(f"{place}: {text}" for place, text in violations))


def read_spec(document: Mapping[str, object]) -> EdgeSpec:
    """The spec that a document describes.

    Raises:
        SpecError: names every field that is wrong.
    """
    _check_values(document, ())
    try:
        # As JSON, since a strict reader takes a JSON list for a tuple and a JSON text for a path.
        return _READER.validate_json(json.dumps(document))
    except ValidationError as error:
        raise SpecError([_violation(item) for item in error.errors(include_url=False)]) from None


def _check_values(value: object, place: tuple[str | int, ...]) -> None:
    """Refuse values that YAML has and JSON lacks, and nesting deeper than any spec."""
    if len(place) > _MAX_DEPTH:
        raise SpecError([(_path(place[:3]), f"is nested more than {_MAX_DEPTH} levels deep")])
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise SpecError([(_path(place), f"has the key {key!r}, which is not a text")])
            _check_values(item, (*place, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            _check_values(item, (*place, number))
    elif isinstance(value, str):
        if not value.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise SpecError([(_path(place), "holds half of a surrogate pair")])
    elif value is not None and not isinstance(value, bool | int | float):
        raise SpecError([(_path(place), f"is a {type(value).__name__}; put it in quotes to make it a text")])


def _violation(error: ErrorDetails) -> Violation:
    place, context = error["loc"], error.get("ctx", {})
    part = context.get("part")
    path = ".".join(filter(None, (_path(place), part))) or "the spec"
    return path, _text(error["type"], place, context, error)


def _text(kind: str, place: tuple[str | int, ...], context: Mapping[str, object], error: ErrorDetails) -> str:
    given = error["input"]
    shown = _kind_of(given)
    match kind:
        case "missing":
            return "is missing"
        case "spec":
            return str(context["text"])
        case "unexpected_keyword_argument":
            return f"is not a field of the spec{_suggestion(str(place[-1]))}"
        case "dataclass_type":
            names = ", ".join(_CLASSES[str(context["class_name"])])
            return f"takes the fields {names}, not {shown}"
        case "int_type" | "int_parsing" | "int_from_float":
            return f"takes a whole number, not {shown}"
        case "float_type" | "float_parsing" | "finite_number":
            return f"takes a number, not {shown}"
        case "string_type" | "path_type":
            return f"takes a text, not {shown}"
        case "tuple_type":
            return f"takes a list, not {shown}"
        case "string_too_short":
            return "is empty"
        case "greater_than_equal" | "greater_than":
            above = "at least" if kind == "greater_than_equal" else "above"
            return f"is {shown}; it has to be {above} {context.get('ge', context.get('gt'))}"
        case "less_than_equal":
            return f"is {shown}; it has to be at most {context['le']}"
        case _:
            return error["msg"][0].lower() + error["msg"][1:]


def _path(place: Sequence[str | int]) -> str:
    path = ""
    for step in place:
        path += f"[{step}]" if isinstance(step, int) else f".{step}"
    return path.removeprefix(".")


def _suggestion(name: str) -> str:
    close = difflib.get_close_matches(name, _NAMES, n=1)
    return f"; did you mean `{close[0]}`?" if close else ""


def _kind_of(value: object) -> str:
    """Describe the kind of a value. Only numbers and truth values are shown: a text may be a secret."""
    match value:
        case None:
            return "nothing"
        case str():
            return "a text"
        case list():
            return "a list"
        case dict():
            return "a mapping"
        case _:
            return repr(value)
