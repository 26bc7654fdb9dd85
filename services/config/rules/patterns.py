"""Checks that tenants' patterns compile at every router, within bounds. The config service's only user of RE2.

A pattern that passes here compiles at a router, which uses the same engine with the same bounds. The bounds limit the
cost of a hostile pattern: a search takes time in proportion to the length of the text times the size of the program.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import re2

MAX_PATTERN_BYTES = 1024
MAX_PROGRAM_SIZE = 2000
"""The most instructions of one pattern: `a{1000}` has 1004, `\\pL` 1200, an e-mail address 42."""
MAX_PROGRAM_SIZE_TOGETHER = 5000
"""The most instructions of all of a tenant's patterns."""
MAX_UNICODE_CLASSES = 32
"""The most Unicode classes, such as `\\pL`, in one pattern: each takes RE2 up to 0.2 ms before the size is known."""
MAX_WORK = 20_000
"""The most instructions compiled while checking all of a tenant's patterns, refused ones included."""
PATTERN_MEMORY_BYTES = 512 << 10
SET_MEMORY_BYTES = 2 << 20

# RE2's names of errors. The text after the name quotes the pattern, so it is dropped.
_KNOWN_ERRORS = frozenset(
    {
        "bad repetition operator",
        "invalid UTF-8",
        "invalid character class",
        "invalid character class range",
        "invalid escape sequence",
        "invalid named capture group",
        "invalid perl operator",
        "invalid repetition size",
        "missing )",
        "missing ]",
        "no argument for repetition operator",
        "trailing \\",
        "unexpected )",
    }
)
# About as many instructions as fit the memory.
_TOO_LARGE_WORK = 5000
_WORK_OF_A_BYTE = 4
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
# Texts with every kind of position for an empty match: ends, word boundaries, line ends.
_PLACES = ("", "a. b\n1\n")


@dataclass(frozen=True, slots=True)
class CheckedPattern:
    """The result of checking one pattern."""

    problem: str | None
    """The violation, without a character of the pattern; None for none."""
    program_size: int
    """Its number of instructions; 0 where it is refused."""
    work: int
    """The cost of the check, in instructions."""


def check_pattern(pattern: str) -> CheckedPattern:
    """Compile a pattern within its bounds and check it."""
    size = len(pattern.encode())
    if not 1 <= size <= MAX_PATTERN_BYTES:
        return CheckedPattern(f"has {size} bytes, not 1 to {MAX_PATTERN_BYTES}", 0, 0)
    classes = sum(kind in "pP" for kind in _ESCAPE.findall(pattern))
    if classes > MAX_UNICODE_CLASSES:  # proven: classes-before-compiling
        return CheckedPattern(f"names {classes} Unicode classes, more than {MAX_UNICODE_CLASSES}", 0, 0)
    try:
        compiled = re2.compile(pattern, _options(PATTERN_MEMORY_BYTES))
    except re2.error as error:
        problem, too_large = _described(error)
        return CheckedPattern(problem, 0, _TOO_LARGE_WORK if too_large else _WORK_OF_A_BYTE * size)
    program_size: int = compiled.programsize
    if program_size > MAX_PROGRAM_SIZE:
        problem = f"needs {program_size} instructions, more than {MAX_PROGRAM_SIZE}"
        return CheckedPattern(problem, 0, program_size)
    if any(match.start() == match.end() for place in _PLACES for match in compiled.finditer(place)):
        return CheckedPattern("matches the empty text", program_size, program_size)
    return CheckedPattern(None, program_size, program_size)


def fit_together(patterns: Sequence[str]) -> bool:
    """Whether patterns that are good one by one compile as one set, as a router will compile them."""
    together = re2.Set.SearchSet(_options(SET_MEMORY_BYTES))
    try:
        for pattern in patterns:
            together.Add(pattern)
        together.Compile()
    except re2.error:
        return False
    return True


def _described(error: Exception) -> tuple[str, bool]:
    """The violation of an error, and whether the pattern is too large."""
    cause = error.args[0] if error.args else ""
    if isinstance(cause, bytes):
        cause = cause.decode("utf-8", "replace")
    if str(cause).startswith("pattern too large"):
        return f"does not compile within {PATTERN_MEMORY_BYTES} bytes", True
    kind = str(cause).partition(":")[0]
    return f"does not compile: {kind}" if kind in _KNOWN_ERRORS else "does not compile", False


def _options(memory_bytes: int) -> Any:
    options = re2.Options()
    options.max_mem = memory_bytes
    # Otherwise RE2 writes patterns to stderr.
    options.log_errors = False  # proven: patterns-are-not-logged
    # No group is read, and programs are smaller without them.
    options.never_capture = True
    return options
