"""Finds stop sequences in text that arrives in pieces, and holds back what may still become one. Pure.

The result does not depend on how the text is cut into pieces: the sequence that is complete first ends the text, and
of several that are complete at the same character the longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StopResult:
    """The result of one piece."""

    text: str
    """Text that is certain not to be part of a stop sequence."""
    stopped: bool
    """Whether a stop sequence is complete; nothing follows."""


class _Automaton:
    """Knuth, Morris and Pratt's: after each character, how much of the sequence the text ends with."""

    def __init__(self, sequence: str) -> None:
        self.sequence = sequence
        self.matched = 0
        self._fallback = [0] * len(sequence)
        matched = 0
        for place in range(1, len(sequence)):
            while matched and sequence[place] != sequence[matched]:
                matched = self._fallback[matched - 1]
            matched += sequence[place] == sequence[matched]
            self._fallback[place] = matched

    def step(self, character: str) -> bool:
        """Take one character; whether the sequence is complete."""
        sequence, matched = self.sequence, self.matched
        while matched and sequence[matched] != character:
            matched = self._fallback[matched - 1]
        self.matched = matched + (sequence[matched] == character)
        return self.matched == len(sequence)


class StopMatcher:
    """Searches one answer; without stop sequences at no cost."""

    def __init__(self, sequences: Sequence[str]) -> None:
        self._automata = [_Automaton(sequence) for sequence in sequences if sequence]
        self._held = ""

    def feed(self, text: str) -> StopResult:
        """Take the next piece."""
        if not self._automata:
            return StopResult(text, stopped=False)
        seen = self._held + text
        for place, character in enumerate(text, start=len(self._held) + 1):
            complete = [len(a.sequence) for a in self._automata if a.step(character)]
            if complete:
                self._held = ""
                return StopResult(seen[: place - max(complete)], stopped=True)
        keep = max(automaton.matched for automaton in self._automata)
        certain = len(seen) - keep
        self._held = seen[certain:]
        return StopResult(seen[:certain], stopped=False)

    def finish(self) -> str:
        """The text that was held back, once nothing follows."""
        rest, self._held = self._held, ""
        return rest
