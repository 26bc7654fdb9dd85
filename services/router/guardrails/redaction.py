"""Applies guardrails to texts: denies them, or replaces every match. Pure; the clock is passed in.

Every rule searches the original text, so that no rule hides a match from another. Where matches of several rules
overlap, all that they cover is replaced once, by the first of those rules. The rules that deny search the result once
more, since a replacement can bring together what they look for; it is not redacted again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.router.guardrails.pattern_sets import PatternSet
from services.router.snapshot.model import GuardrailRule

MAX_MATCHES = 10_000
"""The most that are replaced in one request or answer; with more it is denied. Bounds how much a text can grow."""
MAX_SECONDS = 2.0
"""The longest search for matches: a hostile pattern can take the square of the text's length."""

Monotonic = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement on the texts of a request or an answer."""

    texts: tuple[str, ...] | None
    """The texts with replacements; None if nothing was replaced, or if they are denied."""
    rule_ids: tuple[str, ...]
    """Every rule that matched, in the rules' order."""
    denied_by: str | None
    """The first rule that denies."""


CLEAN = Verdict(None, (), None)
Found = Sequence[Sequence[int]]
"""For each text, the places of the rules that match it."""


def find(patterns: PatternSet, texts: Sequence[bytes]) -> Found:
    """Find which rules match which texts."""
    return [patterns.matching(text) for text in texts]


def verdict(rules: Sequence[GuardrailRule], found: Found) -> Verdict:
    """The judgement without the matches' places: which rules matched, and whether one of them denies."""
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
    """Replace every match of the rules that were found; deny the texts if there are too many or the search is slow."""
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
    """The search in one request or answer, with its bounds."""

    def __init__(
        self, rules: Sequence[GuardrailRule], patterns: PatternSet, monotonic_seconds: Monotonic
    ) -> None:
        self._rules = rules
        self._patterns = patterns
        self._now = monotonic_seconds
        self._until = monotonic_seconds() + MAX_SECONDS
        self._matches_left = MAX_MATCHES

    def redacted(self, text: bytes, places: Sequence[int]) -> str:
        spans: list[tuple[int, int, int]] = []
        for place in places:
            for start, end in self._patterns.spans(place, text):
                self._matches_left -= 1
                if self._matches_left < 0 or self._now() > self._until:
                    raise _TooMuchError(self._rules[place].rule_id)
                spans.append((*_whole_characters(text, start, end), place))
        pieces, end_of_last = [], 0
        for start, end, place in _merged(sorted(spans)):
            pieces += [text[end_of_last:start], self._rules[place].replacement.encode()]
            end_of_last = end
        pieces.append(text[end_of_last:])
        return b"".join(pieces).decode()


def _merged(spans: Sequence[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Join spans that overlap, under the first of their rules; those that only touch stay apart."""
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
