"""JSON Schema (draft 2020-12) of the documents that operators write, for editors that complete and check. Pure.

The service stays the judge: rules that look at several fields, or at what else exists, are not in a schema.
"""

from __future__ import annotations

from typing import Any

from services.cli.reference.catalog import Catalog, Field, Message
from services.cli.reference.documents import DOCUMENTS, DocumentForm
from services.cli.reference.wording import default_words

Schema = dict[str, Any]
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_DURATION = r"^[0-9]+(\.[0-9]{1,9})?s$"
_TYPES: dict[str, Schema] = {
    "boolean": {"type": "boolean"},
    "bytes": {"type": "string", "contentEncoding": "base64"},
    "duration": {"type": "string", "pattern": _DURATION},
    "field mask": {"type": "string"},
    "integer": {"type": "integer"},
    "number": {"type": "number"},
    "text": {"type": "string"},
    "time": {"type": "string", "format": "date-time"},
}


def json_schema(topic: str, catalog: Catalog) -> Schema:
    """The schema of a tenant's, a pool's or a base model's document.

    Args:
        topic: a key of `DOCUMENTS`.
        catalog: the fields.
    """
    form = DOCUMENTS[topic]
    message = catalog.messages[catalog.topics[topic]]
    used: set[str] = set()
    whole = _object(message, form, catalog, used)
    if form.name_key:
        whole["properties"] = {
            form.name_key: {
                "type": "string",
                "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
                "description": f"The {topic}'s name.",
            },
            **whole["properties"],
        }
        whole["required"] = [form.name_key, *whole["required"]]
    return {
        "$schema": _DIALECT,
        "title": f"A {topic} of tenantry",
        **whole,
        "$defs": _definitions(used, catalog),
    }


def _definitions(used: set[str], catalog: Catalog) -> Schema:
    made: Schema = {}
    while used - made.keys():
        name = min(used - made.keys())
        made[name] = _object(catalog.messages[name], None, catalog, used)
    return made


def _object(message: Message, form: DocumentForm | None, catalog: Catalog, used: set[str]) -> Schema:
    fields = [field for field in message.fields.values() if form is None or form.takes(field)]
    return {
        "description": message.about,
        "type": "object",
        "additionalProperties": False,
        "properties": {field.name: _property(field, catalog, used) for field in fields},
        "required": [field.name for field in fields if field.behaviour == "required"],
    }


def _property(field: Field, catalog: Catalog, used: set[str]) -> Schema:
    about = _about(field, catalog)
    one = _one(field, catalog, used)
    if not field.repeated:
        return {"description": about, **one}
    whole: Schema = {"description": about, "type": "array", "items": one}
    if field.items:
        low, high = field.items
        whole |= {"maxItems": high} | ({"minItems": low} if low else {})
    return whole


def _about(field: Field, catalog: Catalog) -> str:
    parts = [field.about]
    if default_words(field):
        parts.append(f"Default: {default_words(field)}.")
    if field.enum:
        parts += [f"{choice.name}: {choice.about}" for choice in catalog.enums[field.enum]]
    return "\n".join(parts)


def _one(field: Field, catalog: Catalog, used: set[str]) -> Schema:
    if field.message:
        used.add(field.message)
        return {"$ref": f"#/$defs/{field.message}"}
    if field.enum:
        return {"enum": [choice.name for choice in catalog.enums[field.enum]], **_default(field)}
    found = dict(_TYPES[field.type])
    if field.type in {"integer", "number"}:
        bounds = {"minimum": field.minimum, "exclusiveMinimum": field.above, "maximum": field.maximum}
        found |= {word: bound for word, bound in bounds.items() if bound is not None}
    if field.form:
        found["pattern"] = f"^(?:{field.form})$"
    if field.choices:
        found["enum"] = list(field.choices)
    # A text of so many bytes has at most so many characters.
    for bounds_of_text in (field.characters, field.bytes):
        if bounds_of_text is not None:
            low, high = bounds_of_text
            found |= {"maxLength": high} | ({"minLength": 1} if low else {})
    return {**found, **_default(field)}


def _default(field: Field) -> Schema:
    return {} if field.default is None or field.default.text else {"default": field.default.value}
