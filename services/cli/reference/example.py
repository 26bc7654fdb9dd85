"""An annotated document: every field with what it means, and values that fit one another. Pure."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from typing import Any

from services.cli.reference.catalog import Catalog, Field, Message
from services.cli.reference.documents import DOCUMENTS, is_written
from services.cli.reference.wording import bounds_words, default_words

_WIDTH = 100
_WORD = re.compile("[A-Za-z0-9]*[A-Za-z][A-Za-z0-9/_-]*")
NAME = "acme"


def annotated_example(topic: str, catalog: Catalog) -> str:
    """A YAML document with a comment for each field.

    A field without an example is a comment only: it names something that a mesh may not have.

    Args:
        topic: a key of `DOCUMENTS`.
        catalog: the fields.
    """
    form = DOCUMENTS[topic]
    message = catalog.messages[catalog.topics[topic]]
    lines = [*_comment(message.about, ""), *_comment(f"`{form.command}` takes this document.", "")]
    if form.name_key:
        lines += [*_comment(f"The {topic}'s name.", ""), f"{form.name_key}: {NAME}"]
    for field in message.fields.values():
        if is_written(form, field):
            lines += _field(field, catalog, "", "")
    return "\n".join(lines) + "\n"


def _field(field: Field, catalog: Catalog, indent: str, above_set_by: str) -> Iterator[str]:
    yield from _comment(field.about, indent)
    yield from _comment(_facts(field, catalog, above_set_by), indent)
    if field.message:
        yield f"{indent}{field.name}:"
        yield from _group(field, catalog.messages[field.message], catalog, indent)
    elif field.example is None:
        yield f"{indent}# {field.name}: (left out)"
    else:
        example = _yaml(field.example)
        yield f"{indent}{field.name}: {f'[{example}]' if field.repeated else example}"


def _group(field: Field, message: Message, catalog: Catalog, indent: str) -> Iterator[str]:
    parts = message.fields.values()
    inside = [line for part in parts for line in _field(part, catalog, f"{indent}  ", field.set_by)]
    if field.repeated:
        # The list's dash stands on the line of the item's first comment.
        inside[0] = f"{indent}- {inside[0].lstrip()}"
    yield from inside


def _facts(field: Field, catalog: Catalog, above_set_by: str) -> str:
    parts = ["Required."] if field.behaviour == "required" else []
    for word, value in (("Default", default_words(field)), ("Bounds", bounds_words(field))):
        if value:
            parts.append(f"{word}: {value}.")
    if field.enum:
        parts.append("Choices: " + ", ".join(choice.name for choice in catalog.enums[field.enum]) + ".")
    if field.set_by == "platform-admin" != above_set_by:
        parts.append("Set by platform-admins only.")
    return " ".join(parts)


def _comment(text: str, indent: str) -> list[str]:
    start = f"{indent}# "
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=start,
        subsequent_indent=start,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _yaml(value: Any) -> str:
    """A JSON value is YAML; plain words go without quotes."""
    if isinstance(value, str) and _WORD.fullmatch(value):
        return value
    return json.dumps(value, ensure_ascii=False)
