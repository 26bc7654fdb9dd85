"""The reference of config fields, made of the comments in the protos; `gen_protos.py` writes and checks it.

A comment ends with facts, one a line: `Default: 100`. A fact that this module does not know fails the generation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from google.api import field_behavior_pb2
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)

PACKAGE = ".tenantry.config.v1."
ADMIN_SERVICE = "ConfigAdminService"
# The resources an operator sees, by the word `tenantry explain` takes: the message, the call that names a new one, and
# the call that sets its fields.
TOPICS = {
    "tenant": ("Tenant", "CreateTenant", "UpdateTenant"),
    "pool": ("Pool", "CreatePool", "UpdatePool"),
    "model": ("BaseModel", "CreateBaseModel", "CreateBaseModel"),
    "adapter": ("Adapter", "RegisterAdapter", "RegisterAdapter"),
    # The service chooses a key's id.
    "key": ("Key", "", "CreateKey"),
    "version": ("TenantVersion", "", ""),
    "router": ("RouterStatus", "", ""),
}
SERVICE = "service"
ANY_OPERATOR = "tenant-admin"
_FACTS = (
    "Default", "Minimum", "Maximum", "Above", "Bytes", "Characters", "Items", "Form", "Choices", "Role", "Sensitive",
    "Example",
)  # fmt: skip
_FACT = re.compile(rf"({'|'.join(_FACTS)}): (.+)")
_DURATION = re.compile(r"[0-9]+(\.[0-9]{1,9})?s")
_RANGE = re.compile(r"([0-9]+) to ([0-9]+)")
_TYPES = {
    FieldDescriptorProto.TYPE_BOOL: "boolean",
    FieldDescriptorProto.TYPE_BYTES: "bytes",
    FieldDescriptorProto.TYPE_DOUBLE: "number",
    FieldDescriptorProto.TYPE_ENUM: "choice",
    FieldDescriptorProto.TYPE_FLOAT: "number",
    FieldDescriptorProto.TYPE_INT32: "integer",
    FieldDescriptorProto.TYPE_INT64: "integer",
    FieldDescriptorProto.TYPE_STRING: "text",
    FieldDescriptorProto.TYPE_UINT64: "integer",
}
_WELL_KNOWN = {
    ".google.protobuf.Duration": "duration",
    ".google.protobuf.FieldMask": "field mask",
    ".google.protobuf.Timestamp": "time",
}
Plain = dict[str, Any]


class CommentError(Exception):
    """A comment holds a fact that cannot be read; the message names the element."""


def reference(compiled: FileDescriptorSet) -> str:
    """The reference as JSON: every message an operator sends or gets, every enum in them, every call.

    Args:
        compiled: all protos, with their source info.

    Raises:
        CommentError: a comment is missing or holds a fact that cannot be read.
    """
    files = [file for file in compiled.file if f".{file.package}." == PACKAGE]
    comments = {f"{file.name}:{path}": text for file in files for path, text in _comments(file)}
    elements = _Elements(files, comments)
    messages = {name: elements.message(name) for name in elements.reachable()}
    methods = elements.methods()
    _say_who_sets(messages, methods)
    enums = {field["enum"] for message in messages.values() for field in message["fields"] if "enum" in field}
    whole = {
        "topics": {topic: message for topic, (message, _, _) in TOPICS.items()},
        "messages": messages,
        "enums": {name: elements.enum(name) for name in sorted(enums)},
        "calls": methods,
    }
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def _comments(file: FileDescriptorProto) -> Iterator[tuple[tuple[int, ...], str]]:
    for place in file.source_code_info.location:
        yield tuple(place.path), place.leading_comments


class _Elements:
    """Messages, enums and calls of the package, with their comments."""

    def __init__(self, files: list[FileDescriptorProto], comments: dict[str, str]) -> None:
        self._comments = comments
        self._messages = {
            message.name: (message, f"{file.name}:", (4, number))
            for file in files
            for number, message in enumerate(file.message_type)
        }
        self._enums = {
            enum.name: (enum, f"{file.name}:", (5, number))
            for file in files
            for number, enum in enumerate(file.enum_type)
        }
        [(self._service, self._service_file, self._service_place)] = [
            (service, f"{file.name}:", (6, number))
            for file in files
            for number, service in enumerate(file.service)
            if service.name == ADMIN_SERVICE
        ]

    def reachable(self) -> list[str]:
        """Every message a call takes or gives; resources first, then in the order of the calls."""
        waiting = [message for message, _, _ in TOPICS.values()]
        for method in self._service.method:
            waiting += [kind.removeprefix(PACKAGE) for kind in (method.input_type, method.output_type)]
        found: dict[str, None] = {}
        while waiting:
            name = waiting.pop(0)
            if name not in self._messages or name in found:
                continue
            found[name] = None
            # What a message holds comes right after it.
            waiting[:0] = [field.type_name.removeprefix(PACKAGE) for field in self._messages[name][0].field]
        return list(found)

    def message(self, name: str) -> Plain:
        message, file, place = self._messages[name]
        about, facts = self._comment(name, file, place)
        if facts:
            raise CommentError(f"{name}: a message has no facts")
        fields = [
            self._field(
                f"{name}.{field.name}", field, message, self._comment(field.name, file, (*place, 2, number))
            )
            for number, field in enumerate(message.field)
        ]
        return {"about": about, "fields": fields}

    def enum(self, name: str) -> Plain:
        enum, file, place = self._enums[name]
        values = [
            {"name": value.name, "about": self._comment(value.name, file, (*place, 2, number))[0]}
            for number, value in enumerate(enum.value)
        ]
        return {"about": self._comment(name, file, place)[0], "values": values}

    def methods(self) -> Plain:
        found = {}
        for number, method in enumerate(self._service.method):
            place = (*self._service_place, 2, number)
            about, facts = self._comment(method.name, self._service_file, place)
            found[method.name] = {
                "about": about,
                "role": facts.get("Role", ANY_OPERATOR),
                "request": method.input_type.removeprefix(PACKAGE),
                "response": method.output_type.removeprefix(PACKAGE),
            }
        return found

    def _comment(self, name: str, file: str, place: tuple[int, ...]) -> tuple[str, dict[str, str]]:
        """The prose of a comment on one line, and its facts."""
        lines = [line.strip() for line in self._comments.get(f"{file}{place}", "").strip().splitlines()]
        facts: dict[str, str] = {}
        while lines and (fact := _FACT.fullmatch(lines[-1])):
            facts = {fact[1]: fact[2], **facts}
            lines.pop()
        if not lines:
            raise CommentError(f"{name} has no comment")
        return " ".join(lines), facts

    def _field(
        self,
        where: str,
        field: FieldDescriptorProto,
        message: DescriptorProto,
        comment: tuple[str, dict[str, str]],
    ) -> Plain:
        about, facts = comment
        found: Plain = {"name": field.name, "about": about, **self._type(field)}
        behaviours = field.options.Extensions[field_behavior_pb2.field_behavior]
        if behaviours:
            found["behaviour"] = field_behavior_pb2.FieldBehavior.Name(behaviours[0]).lower()
        elif field.HasField("oneof_index") and not field.proto3_optional:
            found["one_of"] = message.oneof_decl[field.oneof_index].name
        for fact, text in facts.items():
            read: Callable[[Plain, str], Any] | None = _READERS.get(fact)
            try:
                found[fact.lower()] = read(found, text) if read else text
            except ValueError:
                raise CommentError(f"{where}: cannot read {fact}: {text}") from None
        if found.get("default") and "enum" in found and "value" in found["default"]:
            self._require_value(where, found["enum"], found["default"]["value"])
        return found

    def _type(self, field: FieldDescriptorProto) -> Plain:
        found: Plain = {}
        if field.type == FieldDescriptorProto.TYPE_MESSAGE:
            found["type"] = _WELL_KNOWN.get(field.type_name, "group")
            if found["type"] == "group":
                found["message"] = field.type_name.removeprefix(PACKAGE)
        else:
            found["type"] = _TYPES[field.type]
            if field.type == FieldDescriptorProto.TYPE_ENUM:
                found["enum"] = field.type_name.removeprefix(PACKAGE)
        if field.label == FieldDescriptorProto.LABEL_REPEATED:
            found["repeated"] = True
        return found

    def _require_value(self, where: str, enum: str, value: str) -> None:
        if value not in {known.name for known in self._enums[enum][0].value}:
            raise CommentError(f"{where}: {enum} has no value {value}")


def _value(field: Plain, text: str) -> Any:
    """A literal of the field's type.

    Raises:
        ValueError: it is none.
    """
    kind = field["type"]
    if kind in {"integer", "number", "boolean"}:
        return json.loads(text)
    if kind == "duration" and _DURATION.fullmatch(text):
        return text
    if kind == "choice" and re.fullmatch("[A-Z0-9_]+", text):
        return text
    if kind == "text" and text.startswith('"'):
        return json.loads(text)
    raise ValueError(text)


def _default(field: Plain, text: str) -> Plain:
    """A literal as a value; anything else is a description of one."""
    try:
        return {"value": _value(field, text)}
    except ValueError:
        return {"text": text}


def _example(field: Plain, text: str) -> Any:
    return text if field["type"] == "text" and not text.startswith('"') else _value(field, text)


def _range(_field: Plain, text: str) -> list[int]:
    match = _RANGE.fullmatch(text)
    if match is None:
        raise ValueError(text)
    return [int(match[1]), int(match[2])]


def _choices(field: Plain, text: str) -> list[Any]:
    return [json.loads(choice) if field["type"] == "integer" else choice for choice in text.split(", ")]


def _yes(_field: Plain, text: str) -> bool:
    if text != "yes":
        raise ValueError(text)
    return True


_READERS: dict[str, Callable[[Plain, str], Any]] = {
    "Default": _default,
    "Minimum": _value,
    "Maximum": _value,
    "Above": _value,
    "Bytes": _range,
    "Characters": _range,
    "Items": _range,
    "Choices": _choices,
    "Sensitive": _yes,
    "Example": _example,
}


def _say_who_sets(messages: Plain, methods: Plain) -> None:
    """Add to every field who sets it (`set_by`), and whether at any time or at creation only (`set_when`)."""
    said: set[str] = set()

    def say(name: str, role: str, when: str) -> None:
        if name in said:
            return
        said.add(name)
        for field in messages[name]["fields"]:
            of_service = field.get("behaviour") == "output_only" or field["name"] == "etag" or role == SERVICE
            own = SERVICE if of_service else field.pop("role", role)
            field.pop("role", None)
            field["set_by"] = own
            if own != SERVICE:
                field["set_when"] = when
            if "message" in field:
                say(field["message"], own, when)

    for message, creation, change in TOPICS.values():
        say(
            message,
            methods[change]["role"] if change else SERVICE,
            "any time" if change.startswith("Update") else "creation",
        )
        for field in messages[message]["fields"]:
            if field.get("behaviour") == "identifier":
                field["set_by"] = methods[creation]["role"] if creation else SERVICE
                field["set_when"] = "creation" if creation else ""
    for method in methods.values():
        say(method["request"], method["role"], "call")
    for name in messages:
        say(name, SERVICE, "")
