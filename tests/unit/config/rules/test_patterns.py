"""Which patterns tenants may have, and that a refusal does not quote them."""

from __future__ import annotations

import pytest

from services.config.rules import patterns
from services.config.rules.patterns import check_pattern, fit_together
from tests.fakes.mutants import changed


@pytest.mark.parametrize(
    "pattern",
    [
        r"\b(?:\d[ -]*?){13,16}\b",
        r"(?i)ignore (all )?previous instructions",
        "日本|🗼",
        "a" * 1024,
        "a{1000}",
        r"\pL+",
        r"(?P<name>x)(?P<other>y)",
        "\x00",
    ],
)
def test_these_are_let_through(pattern):
    checked = check_pattern(pattern)
    assert checked.problem is None
    assert checked.program_size > 0


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("", "has 0 bytes, not 1 to 1024"),
        ("a" * 1025, "has 1025 bytes"),
        ("é" * 513, "has 1026 bytes"),
        ("(a{1000}){1000}", "invalid repetition size"),
        (r"\pL{1000}", "does not compile within 524288 bytes"),
        (r"\pL{3}", "instructions, more than 2000"),
        ("(secret", "does not compile: missing )"),
        ("[secret", "does not compile: missing ]"),
        ("(?P<secret", "does not compile: invalid named capture group"),
        (r"secret\Z", "does not compile: invalid escape sequence"),
    ],
)
def test_these_are_refused_and_not_repeated(pattern, says):
    checked = check_pattern(pattern)
    assert checked.problem is not None
    assert says in checked.problem
    assert "secret" not in checked.problem


@pytest.mark.parametrize(
    "pattern", ["x*", "", "^", "$", r"\b", r"\B", "(?m)^", "(?m)$", "a|", "(?:)", "a{0}", "x*?"]
)
def test_what_may_match_nothing_is_refused(pattern):
    assert check_pattern(pattern).problem is not None


def test_the_engine_is_one_that_cannot_go_back():
    assert check_pattern(r"(a+)\1").problem == "does not compile: invalid escape sequence"
    assert check_pattern("a(?=b)").problem == "does not compile: invalid perl operator"


def test_nothing_is_written_to_stderr(capfd):
    for pattern in ("(secret", r"\pL{1000}", "(a{1000}){1000}", r"(a)\1", "secret**"):
        assert check_pattern(pattern).problem
    assert not fit_together(["(secret"])
    assert capfd.readouterr() == ("", "")


def test_without_its_option_the_engine_writes_patterns_to_stderr(capfd):
    careless = changed(patterns, "patterns-are-not-logged", "options.log_errors = True")
    assert careless.check_pattern("(secret").problem
    assert "secret" in capfd.readouterr().err


def test_as_many_as_there_may_be_compile_together():
    assert fit_together([f"word{number}[ab]{{40}}" for number in range(100)])
    assert fit_together([r"\pL", r"(?i)\pL", r"\PL"])
    assert fit_together([])


def test_a_set_beyond_its_memory_is_refused():
    assert not fit_together([f"x{number}[ab]{{990}}" for number in range(40)])
