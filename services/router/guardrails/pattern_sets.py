"""Tenants' compiled patterns: which of many match a text, and where. The router's only user of RE2. Pure.

The bounds are the config service's, which lets no pattern in that does not compile within them. A search takes time
in proportion to text times program, whatever the text; it holds no lock of the interpreter's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import re2

PATTERN_MEMORY_BYTES = 512 << 10
SET_MEMORY_BYTES = 2 << 20
"""What one set's automaton grows to at most; a few KiB for most."""


@dataclass(frozen=True, slots=True)
class PatternSet:
    """One set of patterns, compiled. Shared between threads."""

    patterns: tuple[str, ...]
    broken: tuple[int, ...]
    """Places of the patterns that do not compile here; with any of them nothing may be searched."""
    program_size: int
    """Instructions of all of them."""
    compiled: Any

    def matching(self, text: bytes) -> list[int]:
        """Places of the patterns that occur in a text, in order."""
        assert not self.broken, "searched with patterns missing"
        return sorted(self.compiled.Match(text) or ())

    def spans(self, place: int, text: bytes) -> Iterator[tuple[int, int]]:
        """Where one of them occurs, in order and apart; what matches without taking a byte is left out.

        A step takes as long as a search; all of them together may take its square.
        """
        # RE2's own cache keeps the last 128 of these: few patterns ever match.
        for match in re2.compile(self.patterns[place].encode(), _options(PATTERN_MEMORY_BYTES)).finditer(
            text
        ):
            start, end = match.span()
            if start < end:
                yield start, end


def compile_patterns(patterns: Sequence[str]) -> PatternSet:
    """Compile patterns, each by itself to know its size and its faults, and all of them into one set."""
    broken, size = [], 0
    together = re2.Set.SearchSet(_options(SET_MEMORY_BYTES))
    for place, pattern in enumerate(patterns):
        try:
            size += re2.compile(pattern.encode(), _options(PATTERN_MEMORY_BYTES)).programsize
            together.Add(pattern.encode())
        except re2.error:
            broken.append(place)
    try:
        together.Compile()
    except re2.error:
        broken = broken or list(range(len(patterns)))
    return PatternSet(tuple(patterns), tuple(broken), size, together)


def _options(memory_bytes: int) -> Any:
    options = re2.Options()
    options.max_mem = memory_bytes
    # RE2 would write patterns to stderr.
    options.log_errors = False
    options.never_capture = True
    return options
