"""Contract messages as plain values, JSON and YAML, and back.

Field names are the protos' own. 64-bit integers are numbers, not the strings of the proto JSON mapping, since
people edit these documents. The only module that knows YAML.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml  # type: ignore[import-untyped]  # the wheel carries no types
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from services.cli.given_text import STDIN, read_bytes
from services.cli.visible_text import has_invisible, json_escaped, one_line, yaml_escaped
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
MAX_DEPTH = 64
"""More than any message has levels; protobuf itself stops at 100."""
MAX_VALUES = 4_000_000


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
    # Only there YAML has escapes; unquoted, U+2028 would come back as a space.
    if has_invisible(text):
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def to_yaml(value: object) -> str:
    """A YAML document, keys in the contract's order, invisible characters escaped."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=96)
    return yaml_escaped(text)


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # its base is untyped
    """Refuses a field that is there twice, of which YAML itself would silently drop the first."""


def _construct_mapping(loader: Any, node: Any) -> Plain:
    seen: set[object] = set()
    for key_node, _ in node.value:
        key = getattr(key_node, "value", None)
        if isinstance(key, str) and key_node.tag != "tag:yaml.org,2002:merge":
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the field {key} is there twice", key_node.start_mark
                )
            seen.add(key)
    loader.flatten_mapping(node)
    mapping: Plain = loader.construct_mapping(node, deep=True)
    return mapping


_Loader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)


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
        values = list(yaml.load_all(data, Loader=_Loader))
    except RecursionError:
        raise UsageError(f"{name} is nested more than {MAX_DEPTH} levels deep.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{name} is not YAML{_position(error)}.") from None
    except (ValueError, OverflowError) as error:
        # Of a value that looks like a date or a number and is none, such as 2026-13-45.
        raise UsageError(f"{name} holds a value that YAML cannot read: {error}.") from None
    for problem in _unusable(values):
        raise UsageError(f"{name} {problem}.")
    return values


def _position(error: yaml.YAMLError | UnicodeDecodeError) -> str:
    """Where a document is wrong and how, as far as the parser says."""
    if isinstance(error, yaml.reader.ReaderError):
        return f": character {error.position + 1} is 0x{_code(error.character):02x}, {error.reason}"
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None)
    return (f", line {mark.line + 1}" if mark else "") + (f": {problem}" if problem else "")


def _code(character: str | int | bytes) -> int:
    """PyYAML names a wrong character by its code, its byte or itself."""
    return character if isinstance(character, int) else ord(character[:1])


def _unusable(values: list[Any]) -> Iterator[str]:
    """Why values cannot become a message; anchors count as often as they are used."""
    left = [(value, 0) for value in values]
    seen = 0
    while left:
        value, depth = left.pop()
        seen += 1
        if depth > MAX_DEPTH:
            yield f"is nested more than {MAX_DEPTH} levels deep"
            return
        if seen > MAX_VALUES:
            yield f"holds more than {MAX_VALUES} values"
            return
        if isinstance(value, str) and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                yield f"holds half of a surrogate pair, which is no character: {one_line(value)}"
        elif isinstance(value, dict):
            left += [(key, depth + 1) for key in value]
            left += [(inner, depth + 1) for inner in value.values()]
        elif isinstance(value, (list, tuple, set)):
            left += [(inner, depth + 1) for inner in value]


def to_message(plain: Plain, message: AnyMessage, source: str) -> AnyMessage:
    """Fill a message from JSON values; unknown fields and wrong types are refused.

    Args:
        plain: what to fill it from.
        message: filled and returned.
        source: named in the error.

    Raises:
        UsageError: says which field.
    """
    try:
        return json_format.ParseDict(plain, message)
    except json_format.ParseError as error:
        # Its later lines list every field in another spelling than ours.
        problem = str(error).splitlines()[0].rstrip(".")
        raise UsageError(
            f"{source} is not a {message.DESCRIPTOR.name}: {problem}.",
            "`tenantry tenant get NAME -o yaml` shows the form.",
        ) from None
