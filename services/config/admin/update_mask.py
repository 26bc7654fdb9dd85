"""Applies field masks (AIP-134, AIP-161) to the resource of an update. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from services.common.errors import FieldViolation, InvalidArgumentError

MAX_PATHS = 256
M = TypeVar("M", bound=Message)


def merged(current: M, sent: M, paths: Iterable[str], output_only: frozenset[str]) -> M:
    """Merge the masked fields of the sent resource into the current one.

    Without paths, every populated field is taken; `*` takes all. Output-only fields are never taken.

    Raises:
        InvalidArgumentError: a path names no field, or there are too many.
    """
    chosen = list(paths)
    if len(chosen) > MAX_PATHS:
        what = f"has {len(chosen)} paths, more than {MAX_PATHS}"
        raise InvalidArgumentError([FieldViolation("update_mask", what)])
    # A path costs a copy each time it is repeated.
    chosen = list(dict.fromkeys(chosen))
    if chosen == ["*"]:
        chosen = [field.name for field in sent.DESCRIPTOR.fields]
    elif not chosen:
        chosen = [field.name for field, _ in sent.ListFields()]
    wrong = [path for path in chosen if not _exists(sent.DESCRIPTOR, path)]
    if wrong:
        raise InvalidArgumentError(
            [FieldViolation("update_mask", f"names no field: {path}") for path in wrong]
        )
    result = type(current)()
    result.CopyFrom(current)
    for path in chosen:
        if path.partition(".")[0] not in output_only:
            _copy(result, sent, path)
    return result


def _exists(descriptor: Any, path: str) -> bool:
    name, _, rest = path.partition(".")
    field = descriptor.fields_by_name.get(name)
    if field is None:
        return False
    if not rest:
        return True
    singular = not field.is_repeated and field.type == FieldDescriptor.TYPE_MESSAGE
    return singular and field.message_type is not None and _exists(field.message_type, rest)


def _copy(target: Message, source: Message, path: str) -> None:
    name, _, rest = path.partition(".")
    if rest:
        _copy(getattr(target, name), getattr(source, name), rest)
        return
    target.ClearField(name)
    field = source.DESCRIPTOR.fields_by_name[name]
    value = getattr(source, name)
    if field.is_repeated:
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            getattr(target, name).MergeFrom(value)
        else:
            getattr(target, name).extend(value)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        if source.HasField(name):
            getattr(target, name).CopyFrom(value)
    elif not field.has_presence or source.HasField(name):
        setattr(target, name, value)
