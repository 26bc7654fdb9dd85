"""The reference of config fields, as the data file holds it: resources, their fields, and paths to them. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from importlib import resources
from typing import Any

SERVICE = "service"
"""Sets a field that no operator may set."""
_INDEX = re.compile(r"\[[0-9]*\]")
# Other words for a topic: errors say `base_model.context_tokens`.
_SYNONYMS = {"base_model": "model", "credential": "key"}


@dataclass(frozen=True, slots=True)
class Choice:
    """One value of an enum."""

    name: str
    about: str


@dataclass(frozen=True, slots=True)
class Default:
    """The meaning of an unset field."""

    value: Any = None
    """A JSON value; None where only words can say it."""
    text: str = ""
    """The words; empty where there is a value."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message."""

    name: str
    about: str
    type: str
    """`text`, `integer`, `number`, `boolean`, `choice`, `duration`, `time`, `bytes`, `field mask` or `group`."""
    message: str = ""
    """Of a group: its message."""
    enum: str = ""
    """Of a choice: its enum."""
    repeated: bool = False
    behaviour: str = ""
    """`required`, `optional`, `output_only`, `identifier`; empty in answers."""
    one_of: str = ""
    """At most one of the fields with the same word here is set."""
    default: Default | None = None
    minimum: Any = None
    maximum: Any = None
    above: Any = None
    """A minimum that is itself too low."""
    characters: tuple[int, int] | None = None
    bytes: tuple[int, int] | None = None
    items: tuple[int, int] | None = None
    form: str = ""
    """A regular expression for the whole text."""
    choices: tuple[Any, ...] = ()
    """Of a text or a number: the only values."""
    example: Any = None
    sensitive: bool = False
    set_by: str = SERVICE
    """`platform-admin`; `tenant-admin`, which includes platform-admins; or `service`."""
    set_when: str = ""
    """`any time`, `creation` or `call`; empty for the service's."""


@dataclass(frozen=True, slots=True)
class Message:
    """A resource, a group of fields, a request or an answer."""

    name: str
    about: str
    fields: Mapping[str, Field]


@dataclass(frozen=True, slots=True)
class Call:
    """A call of the admin API."""

    name: str
    about: str
    role: str
    """`platform-admin`, or `tenant-admin`, which includes platform-admins."""
    request: str
    response: str
    """Both are names of messages."""


@dataclass(frozen=True, slots=True)
class Place:
    """The target of a path."""

    path: str
    field: Field | None
    """None for a message that stands by itself."""
    message: Message | None
    """None for a field that holds no other fields."""


class UnknownPathError(Exception):
    """A path leads nowhere; `nearest` are paths it may have meant."""

    def __init__(self, path: str, part: str, nearest: tuple[str, ...]) -> None:
        super().__init__(path)
        self.path = path
        self.part = part
        self.nearest = nearest


@dataclass(frozen=True, slots=True)
class Catalog:
    """All messages, enums and topics."""

    topics: Mapping[str, str]
    """`tenant` and its like, each with its message's name."""
    messages: Mapping[str, Message]
    enums: Mapping[str, tuple[Choice, ...]]
    """Without the value that means unset."""
    calls: Mapping[str, Call]

    @classmethod
    def from_json(cls, text: str) -> Catalog:
        """The catalogue in the generated file's text."""
        whole = json.loads(text)
        return cls(
            whole["topics"],
            {
                name: Message(name, message["about"], {f["name"]: _field(f) for f in message["fields"]})
                for name, message in whole["messages"].items()
            },
            {
                name: tuple(Choice(value["name"], value["about"]) for value in enum["values"][1:])
                for name, enum in whole["enums"].items()
            },
            {name: Call(name, **call) for name, call in whole["calls"].items()},
        )

    def find(self, path: str) -> Place:
        """Find what is at a path such as `tenant.config.limits`; `models[0]` is read as `models`.

        Raises:
            UnknownPathError: there is no such path.
        """
        first, *rest = _INDEX.sub("", path).strip(".").split(".")
        first = _SYNONYMS.get(first, first)
        message = self.messages.get(self.topics.get(first, first))
        if message is None:
            raise UnknownPathError(path, first, self._nearest_topics(first, rest))
        place, where = Place(first, None, message), first
        for part in rest:
            inside = place.message
            field = inside.fields.get(part) if inside else None
            if field is None:
                raise UnknownPathError(path, part, self._nearest_fields(where, inside, part, path))
            if place.field is not None and place.field.set_by == SERVICE:
                # For example an older version's config: the fields are a tenant's, but no operator sets them there.
                field = replace(field, set_by=SERVICE, set_when="")
            where = f"{where}.{part}"
            place = Place(where, field, self.messages.get(field.message))
        return place

    def walk(self, message: Message, path: str) -> Iterator[tuple[str, Field]]:
        """Every field below a message with its path, depth first."""
        for field in message.fields.values():
            where = f"{path}.{field.name}"
            yield where, field
            if field.message in self.messages:
                yield from self.walk(self.messages[field.message], where)

    def paths(self) -> Iterator[str]:
        """Every path below a topic."""
        for topic, name in self.topics.items():
            yield topic
            yield from (path for path, _ in self.walk(self.messages[name], topic))

    def _nearest_topics(self, first: str, rest: list[str]) -> tuple[str, ...]:
        near = get_close_matches(first.lower(), [*self.topics, *self.messages], n=1) or [
            name for name in self.messages if name.lower() == first.lower()
        ]
        if near:
            return (".".join([near[0], *rest]),)
        return self._ending(".".join([first, *rest]))

    def _nearest_fields(self, where: str, inside: Message | None, part: str, path: str) -> tuple[str, ...]:
        near = get_close_matches(part, list(inside.fields) if inside else [], n=2)
        if near:
            return tuple(f"{where}.{name}" for name in near)
        return self._ending(path.rpartition(".")[2])

    def _ending(self, end: str) -> tuple[str, ...]:
        """Paths that end as asked: the part of a path that people remember."""
        return tuple(path for path in self.paths() if f".{path}".endswith(f".{end}"))[:3]


def _field(plain: dict[str, Any]) -> Field:
    default = plain.pop("default", None)
    pairs: dict[str, Any] = {
        name: tuple(plain.pop(name)) for name in ("characters", "bytes", "items", "choices") if name in plain
    }
    return Field(**plain, **pairs, default=None if default is None else Default(**default))


@cache
def load() -> Catalog:
    """The catalogue that this version of the command comes with."""
    return Catalog.from_json(resources.files(__package__).joinpath("fields.json").read_text("utf-8"))


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean ...?`, or nothing."""
    near = get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""
