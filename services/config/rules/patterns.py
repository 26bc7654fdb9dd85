"""Are tenants' patterns fit for every router? The config service's only user of RE2.

A pattern that is let through here compiles at a router, which uses the same engine with the same bounds. The bounds
are what a hostile pattern can cost: a search takes time in proportion to text times program, whatever the text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import re2

MAX_PATTERN_BYTES = 1024
MAX_PROGRAM_SIZE = 2000
"""Instructions of one pattern: `a{1000}` has 1004, `\\pL` 1200, an e-mail address 42."""
MAX_PROGRAM_SIZE_TOGETHER = 5000
"""Of all of a tenant's patterns."""
MAX_UNICODE_CLASSES = 32
"""Named by one pattern, such as `\\pL`: each costs RE2 up to 0.2 ms before it knows how large the program is."""
MAX_WORK = 20_000
"""Instructions made while looking at all of a tenant's patterns; those of patterns that are refused count, too."""
PATTERN_MEMORY_BYTES = 512 << 10
SET_MEMORY_BYTES = 2 << 20

# What RE2 calls its errors; what follows them is the pattern's own text, which goes nowhere.
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
# What was made until the memory was used up, about.
_TOO_LARGE_WORK = 5000
_WORK_OF_A_BYTE = 4
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
# Every kind of place a pattern can match without taking a character: ends, word borders, line ends.
_PLACES = ("", "a. b\n1\n")


@dataclass(frozen=True, slots=True)
class CheckedPattern:
    """One pattern's verdict."""

    problem: str | None
    """What is wrong, without a character of the pattern; None for nothing."""
    program_size: int
    """Its instructions; 0 where it is refused."""
    work: int
    """What looking at it cost, in instructions."""


def check_pattern(pattern: str) -> CheckedPattern:
    """Compile a pattern within its bounds and look at what it is."""
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
    """Whether patterns that are good one by one make one set, as a router will make of them."""
    together = re2.Set.SearchSet(_options(SET_MEMORY_BYTES))
    try:
        for pattern in patterns:
            together.Add(pattern)
        together.Compile()
    except re2.error:
        return False
    return True


def _described(error: Exception) -> tuple[str, bool]:
    """What to say of an error, and whether the pattern's size is what is wrong."""
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
    # RE2 would write patterns to stderr.
    options.log_errors = False  # proven: patterns-are-not-logged
    # Nothing asks for groups, and without them programs are smaller.
    options.never_capture = True
    return options
