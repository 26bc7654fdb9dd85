"""Compiles sets of patterns and finds which of them match a text, and where. The router's only user of RE2. Pure.

The bounds are those of the config service, which accepts only patterns that compile within them. The time of a search
is proportional to text times program for any text, and a search releases the interpreter's lock.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import re2

PATTERN_MEMORY_BYTES = 512 << 10
SET_MEMORY_BYTES = 2 << 20
"""The most that the automaton of one set grows to; most take a few KiB."""


@dataclass(frozen=True, slots=True)
class PatternSet:
    """One set of patterns, compiled. Shared between threads."""

    patterns: tuple[str, ...]
    broken: tuple[int, ...]
    """Places of the patterns that do not compile here; a set with any of them must not be searched."""
    program_size: int
    """Instructions of all patterns together."""
    compiled: Any

    def matching(self, text: bytes) -> list[int]:
        """Places of the patterns that occur in a text, in order."""
        assert not self.broken, "searched with patterns missing"
        return sorted(self.compiled.Match(text) or ())

    def spans(self, place: int, text: bytes) -> Iterator[tuple[int, int]]:
        """Where one pattern occurs, in order, without overlaps and without empty matches.

        A step takes as long as a search; all steps together may take the square of that.
        """
        # RE2 caches the last 128 compiled patterns, and few patterns ever match.
        for match in re2.compile(self.patterns[place].encode(), _options(PATTERN_MEMORY_BYTES)).finditer(
            text
        ):
            start, end = match.span()
            if start < end:
                yield start, end


def compile_patterns(patterns: Sequence[str]) -> PatternSet:
    """Compile patterns: each alone, for its size and its faults, and all of them into one set."""
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
