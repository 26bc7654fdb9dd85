"""Compares two messages field by field. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from tenantry.config.v1 import tenant_version_pb2 as pb


def differences(before: Message, after: Message) -> list[pb.Difference]:
    """Every field whose value differs, sorted by path; lists are compared index by index."""
    old, new = dict(_leaves(_plain(before), "")), dict(_leaves(_plain(after), ""))
    found = []
    for path in sorted(old.keys() | new.keys(), key=_in_order):
        if path not in old:
            kind = pb.DIFFERENCE_KIND_ADDED
        elif path not in new:
            kind = pb.DIFFERENCE_KIND_REMOVED
        elif old[path] != new[path]:
            kind = pb.DIFFERENCE_KIND_CHANGED
        else:
            continue
        found.append(
            pb.Difference(field=path, kind=kind, before_json=old.get(path, ""), after_json=new.get(path, ""))
        )
    return found


def _plain(message: Message) -> Any:
    return MessageToDict(message, preserving_proto_field_name=True)


def _leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Paths and JSON of all leaves. An empty message is a leaf, since its presence may matter."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and value:
        for place, inner in enumerate(value):
            yield from _leaves(inner, f"{path}[{place}]")
    elif path:
        yield path, json.dumps(value, ensure_ascii=False)


def _in_order(path: str) -> list[tuple[int, str]]:
    """A sort key in which list indexes are numbers: 10 after 9."""
    parts = path.replace("]", "").replace("[", ".#").split(".")
    return [(int(part[1:]), "") if part.startswith("#") else (0, part) for part in parts]
