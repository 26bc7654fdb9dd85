"""Broken copies of modules: a test of a boundary is shown to fail when the boundary is taken away.

A mutant names what it breaks by a function's name or by a mark, never by the wording of the code. A mark is a comment
at the end of a line, `# proven: NAME`: some test shows what happens without that statement. `tests/unit/test_marks.py`
checks that every mark is used by a test.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable
from types import ModuleType
from typing import Any

MARK = re.compile(r"#\s*proven: (?P<name>[a-z0-9-]+)\s*$")


class NoSuchMarkError(Exception):
    """A module has no statement, or more than one, under a mark."""


def without(module: ModuleType, mark: str) -> ModuleType:
    """A copy of a module in which the marked statement does nothing; the original stays as it is.

    Raises:
        NoSuchMarkError: the mark is not in the module exactly once.
    """
    return changed(module, mark, "pass")


def changed(module: ModuleType, mark: str, becomes: str) -> ModuleType:
    """A copy of a module in which `becomes` stands in place of the marked statement.

    The marked statement is the innermost one that covers the mark's line; on the line of an `if`, a `for` or a `def`
    it is the whole of it.

    Raises:
        NoSuchMarkError: the mark is not in the module exactly once.
    """
    source = inspect.getsource(module)
    first, last, indent = _marked(source, mark, module.__name__)
    lines = source.splitlines()
    lines[first:last] = textwrap.indent(textwrap.dedent(becomes).strip("\n"), indent).splitlines()
    return _compiled(module, "\n".join(lines) + "\n")


def replaced(module: ModuleType, name: str, replacement: Callable[..., Any]) -> ModuleType:
    """A copy of a module whose function `name` (`function` or `Class.method`) is another one.

    Raises:
        AttributeError: the module has no such function.
    """
    copy = _compiled(module, inspect.getsource(module))
    owner: Any = copy
    *path, last = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    getattr(owner, last)
    setattr(owner, last, replacement)
    return copy


def marks_of(source: str) -> list[str]:
    """The marks of a source text, in order."""
    return [found["name"] for line in source.splitlines() if (found := MARK.search(line))]


def _marked(source: str, mark: str, where: str) -> tuple[int, int, str]:
    """The first line of the marked statement, the line after its last one, and its indentation."""
    lines = source.splitlines()
    marked = [i for i, line in enumerate(lines) if (found := MARK.search(line)) and found["name"] == mark]
    if len(marked) != 1:
        raise NoSuchMarkError(f"{where} has {len(marked)} lines marked {mark!r}")
    at = marked[0] + 1
    covering = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.stmt) and node.lineno <= at <= (node.end_lineno or node.lineno)
    ]
    if not covering:
        raise NoSuchMarkError(f"{where}: no statement on the line marked {mark!r}")
    innermost = max(covering, key=lambda node: (node.lineno, -(node.end_lineno or node.lineno)))
    first = min([innermost.lineno, *(d.lineno for d in getattr(innermost, "decorator_list", []))]) - 1
    indent = lines[first][: len(lines[first]) - len(lines[first].lstrip())]
    return first, innermost.end_lineno or innermost.lineno, indent


def _compiled(module: ModuleType, source: str) -> ModuleType:
    copy = ModuleType(f"{module.__name__}__mutant")
    copy.__file__ = module.__file__
    # Dataclasses look their module up while they are made.
    sys.modules[copy.__name__] = copy
    try:
        exec(compile(source, str(module.__file__), "exec"), copy.__dict__)
    finally:
        del sys.modules[copy.__name__]
    return copy
