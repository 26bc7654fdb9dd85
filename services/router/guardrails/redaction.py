"""What guardrails make of texts: denied, or with every match replaced. Pure; the clock comes in.

Every rule looks at the text as it is: no rule hides a match from another. Where matches of several rules overlap, all
of what they cover is replaced once, by the first of those rules. What comes of it is looked at once more by the rules
that deny, since what a replacement brings together may be what they look for; it is not replaced again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.router.guardrails.pattern_sets import PatternSet
from services.router.snapshot.model import GuardrailRule

MAX_MATCHES = 10_000
"""Replaced in one request or answer; what has more is denied. Bounds how much longer a text can become."""
MAX_SECONDS = 2.0
"""For finding them: the searches of a hostile pattern can take the square of the text's length."""

Monotonic = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a request's, or an answer's, texts."""

    texts: tuple[str, ...] | None
    """With replacements; None where nothing was replaced, and where they are denied."""
    rule_ids: tuple[str, ...]
    """Every rule that matched, in the rules' order."""
    denied_by: str | None
    """The first rule that denies."""


CLEAN = Verdict(None, (), None)
Found = Sequence[Sequence[int]]
"""For each text, the places of the rules that match it."""


def find(patterns: PatternSet, texts: Sequence[bytes]) -> Found:
    """Which rules match which texts."""
    return [patterns.matching(text) for text in texts]


def verdict(rules: Sequence[GuardrailRule], found: Found) -> Verdict:
    """What is known without looking for where the matches are: who matched, and whether anything denies."""
    places = sorted(set().union(*found))
    denying = [place for place in places if rules[place].denies]
    return Verdict(
        None,
        tuple(rules[place].rule_id for place in places),
        rules[denying[0]].rule_id if denying else None,
    )


def redact(
    rules: Sequence[GuardrailRule],
    patterns: PatternSet,
    texts: Sequence[bytes],
    found: Found,
    monotonic_seconds: Monotonic,
) -> Verdict:
    """Replace every match of every rule that was found; too many, or too slow to find, and the texts are denied."""
    matched = verdict(rules, found)
    search = _Search(rules, patterns, monotonic_seconds)
    try:
        replaced = tuple(search.redacted(text, places) for text, places in zip(texts, found, strict=True))
    except _TooMuchError as error:
        return Verdict(None, matched.rule_ids, error.rule_id)
    denied_by = verdict(rules, find(patterns, [text.encode() for text in replaced])).denied_by
    if denied_by is not None:
        return Verdict(None, (*matched.rule_ids, denied_by), denied_by)  # proven: replaced-text-is-judged
    return Verdict(replaced, matched.rule_ids, None)


class _TooMuchError(Exception):
    def __init__(self, rule_id: str) -> None:
        super().__init__(rule_id)
        self.rule_id = rule_id


class _Search:
    """One request's or answer's share of work."""

    def __init__(
        self, rules: Sequence[GuardrailRule], patterns: PatternSet, monotonic_seconds: Monotonic
    ) -> None:
        self._rules = rules
        self._patterns = patterns
        self._now = monotonic_seconds
        self._until = monotonic_seconds() + MAX_SECONDS
        self._left = MAX_MATCHES

    def redacted(self, text: bytes, places: Sequence[int]) -> str:
        spans: list[tuple[int, int, int]] = []
        for place in places:
            for start, end in self._patterns.spans(place, text):
                self._left -= 1
                if self._left < 0 or self._now() > self._until:
                    raise _TooMuchError(self._rules[place].rule_id)
                spans.append((*_whole_characters(text, start, end), place))
        pieces, end_of_last = [], 0
        for start, end, place in _merged(sorted(spans)):
            pieces += [text[end_of_last:start], self._rules[place].replacement.encode()]
            end_of_last = end
        pieces.append(text[end_of_last:])
        return b"".join(pieces).decode()


def _merged(spans: Sequence[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Spans that overlap become one, of the first of their rules; those that only touch stay apart."""
    merged: list[tuple[int, int, int]] = []
    for start, end, place in spans:
        if merged and start < merged[-1][1]:
            before = merged[-1]
            merged[-1] = (before[0], max(before[1], end), min(before[2], place))  # proven: whole-matches
        else:
            merged.append((start, end, place))
    return merged


def _whole_characters(text: bytes, start: int, end: int) -> tuple[int, int]:
    """Widen to the borders of characters: RE2 has an escape that matches a single byte."""
    while start and text[start] & 0xC0 == 0x80:
        start -= 1
    while end < len(text) and text[end] & 0xC0 == 0x80:
        end += 1
    return start, end
