"""YAML as plain JSON values, within bounds. Any text is either read, or refused with a line and a column.

YAML 1.1 as PyYAML reads it, less what no document of ours has: timestamps, binary and other typed values, keys that
are not texts, numbers that are not finite. JSON is read too, including its surrogate pairs.
"""

from __future__ import annotations

import codecs
import math
import re
from typing import Any

import yaml  # type: ignore[import-untyped]  # the wheel carries no types

MAX_DEPTH = 64
"""Levels of nesting, aliases followed. The deepest document of ours has six."""
MAX_VALUES = 200_000
"""Values in one document, each alias counted with all it stands for. A tenant of the largest size has about 1,500."""
MAX_TEXT = 1 << 20
"""Characters of one text; the service takes no larger request."""
_MAX_DIGITS = 100
_TAG = "tag:yaml.org,2002:"
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class YamlError(Exception):
    """A text that is not read. The message says what is wrong; `line` and `column` count from 1."""

    def __init__(self, problem: str, line: int, column: int) -> None:
        super().__init__(problem)
        self.problem = problem
        self.line = line
        self.column = column


def read_yaml(data: bytes) -> list[Any]:
    """The documents of a YAML text, in UTF-8, or in UTF-16 with a byte order mark.

    Raises:
        YamlError: the text is not YAML, or holds what no document of ours does.
    """
    text = _decoded(data)
    try:
        return list(yaml.load_all(text, Loader=_Loader))
    except yaml.reader.ReaderError as error:
        character = error.character if isinstance(error.character, int) else ord(error.character)
        problem = f"the character U+{character:04X} is not allowed"
        raise _at(problem, text[: error.position]) from None
    except yaml.MarkedYAMLError as error:
        raise _described(error, text) from None


def _decoded(data: bytes) -> str:
    encoding = "utf-16" if data.startswith(_UTF16) else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        before = data[: error.start].decode(encoding, "replace")
        name = "UTF-16" if encoding == "utf-16" else "UTF-8"
        raise _at(f"the text is not {name}", before) from None


def _at(problem: str, before: str) -> YamlError:
    """An error behind a text."""
    return YamlError(problem, before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)


def _described(error: Any, text: str) -> YamlError:
    mark = error.problem_mark or error.context_mark
    line, column = mark.line, mark.column
    lines = text.splitlines()
    shown = lines[line] if line < len(lines) else ""
    indent = shown[: len(shown) - len(shown.lstrip())]
    if "\t" in indent or shown[column : column + 1] == "\t":
        at = indent.index("\t") if "\t" in indent else column
        return YamlError("there is a tab; YAML takes spaces only", line + 1, at + 1)
    return YamlError(error.problem or "the text is not YAML", line + 1, column + 1)


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # its base is untyped
    """Bounds what a text may cost before anything is made of it."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        # Of every finished node: its values and its levels, aliases followed.
        self._sizes: dict[int, tuple[int, int]] = {}

    def compose_document(self) -> Any:
        self._sizes.clear()
        return super().compose_document()

    def compose_node(self, parent: Any, index: Any) -> Any:
        mark = self.peek_event().start_mark
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _refused(f"more than {MAX_DEPTH} levels are nested", mark)
        alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if alias and id(node) not in self._sizes:
            raise _refused("an alias stands inside what it stands for", mark)
        if not alias:
            self._measure(node, mark)
            if isinstance(node, yaml.MappingNode):
                _check_names(node)  # proven: names-are-checked-as-written
        return node

    def _measure(self, node: Any, mark: Any) -> None:
        """Add up a node that is finished; its parts are."""
        if isinstance(node, yaml.ScalarNode):
            if len(node.value) > MAX_TEXT:
                raise _refused(f"a text has {len(node.value)} characters, more than {MAX_TEXT}", mark)
            self._sizes[id(node)] = (1, 1)
            return
        pairs = isinstance(node, yaml.MappingNode)
        parts = [part for pair in node.value for part in pair] if pairs else node.value
        sizes = [self._sizes[id(part)] for part in parts]
        values, levels = 1 + sum(size for size, _ in sizes), 1 + max((depth for _, depth in sizes), default=0)
        if values > MAX_VALUES:
            raise _refused(f"there are more than {MAX_VALUES} values, aliases counted", mark)
        if levels > MAX_DEPTH:
            raise _refused(f"more than {MAX_DEPTH} levels are nested", mark)
        self._sizes[id(node)] = (values, levels)


def _refused(problem: str, mark: Any) -> Any:
    return yaml.constructor.ConstructorError(None, None, problem, mark)


def _check_names(node: Any) -> None:
    """Refuse a mapping as it is written, before merging changes it: merged fields may repeat its own."""
    seen: set[str] = set()
    for key, _ in node.value:
        if key.tag == f"{_TAG}merge":
            continue
        if key.tag != f"{_TAG}str" or not isinstance(key, yaml.ScalarNode):
            raise _refused("a field's name is not a text; put it in quotes", key.start_mark)
        if key.value in seen:
            # YAML itself would silently drop the first.
            raise _refused(f"the field {_shown(key.value)} is there twice", key.start_mark)
        seen.add(key.value)


def _mapping(loader: Any, node: Any) -> dict[str, Any]:
    if not isinstance(node, yaml.MappingNode):
        raise _refused("a mapping is expected", node.start_mark)
    mapping: dict[str, Any] = loader.construct_mapping(node, deep=True)
    return mapping


def _sequence(loader: Any, node: Any) -> list[Any]:
    if not isinstance(node, yaml.SequenceNode):
        raise _refused("a list is expected", node.start_mark)
    items: list[Any] = loader.construct_sequence(node, deep=True)
    return items


def _text(loader: Any, node: Any) -> str:
    value: str = loader.construct_scalar(node)
    try:
        # JSON writes characters beyond U+FFFF as two escapes, which belong together.
        return value.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise _refused("a text holds one half of a surrogate pair", node.start_mark) from None


def _number(loader: Any, node: Any) -> int | float:
    value: str = loader.construct_scalar(node)
    whole = node.tag == f"{_TAG}int"
    if len(value) > _MAX_DIGITS:
        raise _refused(f"a number has more than {_MAX_DIGITS} digits", node.start_mark)
    try:
        number: int | float = loader.construct_yaml_int(node) if whole else loader.construct_yaml_float(node)
    except (ValueError, IndexError, OverflowError):
        raise _refused("a value is not the number that its tag says", node.start_mark) from None
    if not whole and not math.isfinite(number):
        raise _refused("a number is not finite", node.start_mark)
    return number


def _boolean(loader: Any, node: Any) -> bool:
    try:
        return bool(loader.construct_yaml_bool(node))
    except KeyError:
        raise _refused("a value is not the yes or no that its tag says", node.start_mark) from None


def _unknown_tag(_loader: Any, node: Any) -> Any:
    raise _refused(f"the tag {_shown(node.tag)} is not known", node.start_mark)


def _shown(text: str) -> str:
    """A piece of the document for a message: short, and without what moves a cursor or cannot be written."""
    return re.sub(r"[^\x20-\x7e\xa1-\ud7ff]", "?", text[:60])


_Loader.yaml_implicit_resolvers = {
    first: kept
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    if (kept := [(tag, form) for tag, form in resolvers if tag not in {f"{_TAG}timestamp", f"{_TAG}value"}])
}
_Loader.yaml_constructors = {
    f"{_TAG}bool": _boolean,
    f"{_TAG}float": _number,
    f"{_TAG}int": _number,
    f"{_TAG}map": _mapping,
    f"{_TAG}null": yaml.SafeLoader.construct_yaml_null,
    f"{_TAG}seq": _sequence,
    f"{_TAG}str": _text,
    None: _unknown_tag,
}
