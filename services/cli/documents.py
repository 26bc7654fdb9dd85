"""Contract messages as plain values, JSON and YAML, and back.

Field names are the protos' own. 64-bit integers are numbers, not the strings of the proto JSON mapping, since
people edit these documents.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import yaml  # type: ignore[import-untyped]  # the wheel carries no types
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from services.cli.document_fields import field_problems
from services.cli.given_text import STDIN, read_bytes
from services.cli.visible_text import has_invisible, json_escaped, yaml_escaped
from services.cli.yaml_reading import YamlError, read_yaml
from services.common.command_errors import UsageError

Plain = dict[str, Any]
AnyMessage = TypeVar("AnyMessage", bound=Message)
_WIDE = {
    FieldDescriptor.TYPE_INT64,
    FieldDescriptor.TYPE_UINT64,
    FieldDescriptor.TYPE_SINT64,
    FieldDescriptor.TYPE_FIXED64,
    FieldDescriptor.TYPE_SFIXED64,
}
MAX_FILE_BYTES = 1 << 26


def to_plain(message: Message) -> Plain:
    """A message as JSON values; only what is set."""
    plain: Plain = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return _numbers(message, plain)


def _numbers(message: Message, plain: Plain) -> Plain:
    for field, value in message.ListFields():
        if field.name not in plain:
            continue
        if field.type in _WIDE:
            plain[field.name] = [int(v) for v in value] if field.is_repeated else int(value)
        elif field.message_type is not None and not _is_special(field):
            shown = plain[field.name]
            if field.is_repeated:
                for item, shown_item in zip(value, shown, strict=True):
                    _numbers(item, shown_item)
            else:
                _numbers(value, shown)
    return plain


def _is_special(field: FieldDescriptor) -> bool:
    """Whether the JSON mapping has its own form for it: a map, a timestamp, a duration."""
    kind = field.message_type
    assert kind is not None
    return bool(kind.GetOptions().map_entry) or kind.full_name.startswith("google.protobuf.")


def to_json(value: object) -> str:
    """One line of JSON, invisible characters escaped."""
    return json_escaped(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # its base is untyped
    """Long texts as blocks, the way people write prompts."""


def _represent_text(dumper: Any, text: str) -> Any:
    style = "|" if "\n" in text else None
    # YAML has escapes in double quotes only. Unquoted, U+2028 would be read back as a space.
    if has_invisible(text):
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def to_yaml(value: object) -> str:
    """A YAML document, keys in the contract's order, invisible characters escaped."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=96)
    return yaml_escaped(text)


def read_document(path: Path) -> Plain:
    """A YAML or JSON file holding one mapping.

    Raises:
        UsageError: not readable, too large, or not a mapping.
    """
    documents = read_documents(path)
    if len(documents) != 1:
        raise UsageError(f"{path} holds {len(documents)} documents where one is expected.")
    return documents[0]


def read_documents(path: Path) -> list[Plain]:
    """The mappings in a YAML or JSON file, `---` between them; `-` reads stdin.

    Raises:
        UsageError: not readable, too large, or something else than mappings.
    """
    documents = [value for value in _values(path) if value is not None]
    if not all(isinstance(value, dict) for value in documents):
        raise UsageError(f"{path} holds no mapping of fields to values.")
    return documents


def _values(path: Path) -> list[Any]:
    data = read_bytes(path, "a document", MAX_FILE_BYTES)
    name = "stdin" if path == STDIN else str(path)
    try:
        return read_yaml(data)
    except YamlError as error:
        where = f"line {error.line}, column {error.column}"
        raise UsageError(f"{name} is not YAML, {where}: {error.problem}.") from None


def to_message(plain: Plain, message: AnyMessage, source: str) -> AnyMessage:
    """Fill a message from JSON values; unknown fields, wrong types and unknown choices are refused.

    Args:
        plain: what to fill it from.
        message: filled and returned.
        source: named in the error.

    Raises:
        UsageError: names every field that is wrong.
    """
    kind = message.DESCRIPTOR.name
    hint = "`tenantry explain` says what each field takes."
    wrong = list(field_problems(plain, message.DESCRIPTOR))
    if wrong:
        raise UsageError(f"{source} is not a {kind}.", hint, wrong)
    try:
        return json_format.ParseDict(plain, message)
    except json_format.ParseError as error:
        # Its later lines list every field in another spelling than ours.
        problem = str(error).splitlines()[0].rstrip(".")
        raise UsageError(f"{source} is not a {kind}: {problem}.", hint) from None
