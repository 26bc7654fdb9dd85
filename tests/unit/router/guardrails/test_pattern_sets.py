"""Sets of patterns, and redaction of texts: pure, without a request."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.config.rules import patterns as config_patterns
from services.router.guardrails import pattern_sets, redaction
from services.router.guardrails.pattern_sets import compile_patterns
from services.router.guardrails.redaction import MAX_MATCHES, MAX_SECONDS, find, verdict
from services.router.snapshot.model import GuardrailRule
from tests.fakes.manual_clock import ManualClock
from tests.fakes.mutants import without


def rules(*given_rules: tuple[str, str | None]) -> list[GuardrailRule]:
    """Patterns with their replacements; None denies."""
    return [
        GuardrailRule(f"r{place}", replacement is None, pattern, replacement or "")
        for place, (pattern, replacement) in enumerate(given_rules)
    ]


def outcome(chosen: list[GuardrailRule], *texts: str, module=redaction, now=lambda: 0.0):
    patterns = compile_patterns([rule.pattern for rule in chosen])
    raw = [text.encode() for text in texts]
    return module.redact(chosen, patterns, raw, find(patterns, raw), now)


@pytest.mark.parametrize(
    ("chosen", "text", "becomes"),
    [
        ([("b+", "#")], "abba", "a#a"),
        ([("b", "#")], "abba", "a##a"),
        ([("b", "")], "abba", "aa"),
        ([("日本", "[x]")], "🗼日本🗼日", "🗼[x]🗼日"),
        ([("🗼|é", "-")], "é🗼e\u0301", "--e\u0301"),
        ([("(?i)é", "-")], "Éé", "--"),
        # A rule does not search the replacements of another.
        ([("a", "b"), ("b", "c")], "ab", "bc"),
        # A backslash or a group in a replacement is text.
        ([("(a)", r"\1\g<0>")], "a", r"\1\g<0>"),
        # Overlaps are replaced whole and once, by the first of the rules that match there.
        ([("abc", "1"), ("cd", "2")], "abcd", "1"),
        ([("cd", "1"), ("abc", "2")], "abcde", "1e"),
        ([("b", "1"), ("abcd", "2")], "xabcdx", "x1x"),
        ([("ab", "1"), ("bc", "2"), ("cd", "3")], "abcd abc", "1 1"),
        ([("ab", "1"), ("cd", "2")], "abcd", "12"),
    ],
)
def test_every_match_is_replaced_and_nothing_else(chosen, text, becomes):
    assert outcome(rules(*chosen), text).texts == (becomes,)


def test_a_byte_of_a_character_takes_the_character_along():
    assert outcome(rules((r"a\C", "#")), "xa🗼y").texts == ("x#y",)


def test_mutant_that_replaces_rule_by_rule_leaves_a_part_of_a_match():
    chosen = rules(("abc", "1"), ("cd", "2"))
    careless = without(redaction, "whole-matches")
    assert "d" in outcome(chosen, "abcd", module=careless).texts[0]
    assert outcome(chosen, "abcd").texts == ("1",)


@given(
    st.lists(
        st.sampled_from(["a", "ab", "ba+", "[bc]", "c$", "é", "(?:a|é)b", "^b"]), min_size=1, max_size=5
    ),
    st.text("abcé", max_size=12),
)
def test_nothing_that_matched_is_left(patterns, text):
    chosen = rules(*((pattern, "\N{BLACK CIRCLE}") for pattern in patterns))
    compiled = compile_patterns(patterns)
    covered = set()
    for place in range(len(patterns)):
        for start, end in compiled.spans(place, text.encode()):
            covered |= set(range(start, end))
    kept = bytes(byte for place, byte in enumerate(text.encode()) if place not in covered).decode()
    found = outcome(chosen, text)
    left = found.texts[0] if found.texts is not None else text
    assert left.replace("\N{BLACK CIRCLE}", "") == kept
    assert bool(found.rule_ids) == bool(covered)


def test_what_a_replacement_brings_together_is_looked_at_by_rules_that_deny():
    chosen = rules((r"\d+", ""), ("top secret", None))
    found = outcome(chosen, "top 12secret")
    assert (found.texts, found.rule_ids, found.denied_by) == (None, ("r0", "r1"), "r1")
    assert outcome(chosen, "top 12 secret").texts == ("top  secret",)


def test_mutant_that_trusts_what_it_replaced_lets_a_denied_text_through():
    careless = without(redaction, "replaced-text-is-judged")
    chosen = rules((r"\d+", ""), ("top secret", None))
    assert outcome(chosen, "top 12secret", module=careless).texts == ("top secret",)


def test_more_matches_than_can_be_replaced_are_denied():
    chosen = rules(("x", ""), ("a", "#" * 256))
    assert outcome(chosen, "a" * MAX_MATCHES).denied_by is None
    assert outcome(chosen, "a" * MAX_MATCHES, "a").denied_by == "r1"


def test_matches_that_take_too_long_to_find_are_denied():
    clock = ManualClock()

    def slow():
        clock.advance(MAX_SECONDS / 3)
        return clock.monotonic_seconds()

    assert outcome(rules(("a", "#")), "aa", now=slow).denied_by is None
    assert outcome(rules(("a", "#")), "a" * 9, now=slow).denied_by == "r0"


def test_the_first_rule_that_denies_is_told_and_all_that_match():
    chosen = rules(("a", "#"), ("b", None), ("c", None), ("d", None))
    patterns = compile_patterns([rule.pattern for rule in chosen])
    found = verdict(chosen, find(patterns, [b"c", b"ab"]))
    assert (found.denied_by, found.rule_ids) == ("r1", ("r0", "r1", "r2"))


def test_the_engine_is_one_that_cannot_go_back():
    # Linear in the text by construction: RE2 refuses patterns that it cannot search in linear time.
    assert compile_patterns([r"(a+)\1", "b", "a(?=b)"]).broken == (0, 2)
    assert compile_patterns(["(a+)+$"]).broken == ()


def test_a_set_whose_automaton_outgrows_its_memory_misses_nothing():
    patterns = [rf"[ab]*a[ab]{{300}}{end}" for end in "cd"]
    compiled = compile_patterns(patterns)
    # Every position is another state of the automaton: more than 2 MiB of them.
    text = bytes(random.Random(1).choices(b"ab", k=8000)) + b"a" * 301
    assert compiled.matching(text + b"c") == [0]
    assert compiled.matching(text + b"d") == [1]
    assert compiled.matching(text + b"e") == []


def test_what_the_config_service_lets_in_compiles_here():
    assert pattern_sets.PATTERN_MEMORY_BYTES == config_patterns.PATTERN_MEMORY_BYTES
    assert pattern_sets.SET_MEMORY_BYTES == config_patterns.SET_MEMORY_BYTES
    for several in (
        ["a{1000}", "b{1000}", "c{1000}", "d{1000}"],
        [r"\pL", r"\PL", r"(?i)\p{Greek}+", "日本|🗼"],
        [rf"word{number}[a-z]{{30}}" for number in range(100)],
    ):
        checked = [config_patterns.check_pattern(pattern) for pattern in several]
        assert {one.problem for one in checked} == {None}
        assert sum(one.program_size for one in checked) <= config_patterns.MAX_PROGRAM_SIZE_TOGETHER
        assert config_patterns.fit_together(several)
        assert compile_patterns(several).broken == ()


def test_nothing_is_written_to_stderr(capfd):
    assert compile_patterns(["(secret", r"\pL{1000}"]).broken == (0, 1)
    assert compile_patterns([f"x{number}[ab]{{990}}" for number in range(40)]).broken
    assert capfd.readouterr() == ("", "")
