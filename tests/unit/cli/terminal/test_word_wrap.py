"""Answers on a terminal: lines end between words, however the text is cut into pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from services.cli.terminal.word_wrap import WordWrap


def wrapped(pieces: list[str], width: int) -> str:
    wrap = WordWrap(width)
    return "".join([wrap.feed(piece) for piece in pieces] + [wrap.finish()])


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("the quick brown fox", ["the quick", "brown fox"]),
        ("exactly ten", ["exactly", "ten"]),
        ("1234567890 x", ["1234567890", "x"]),
        ("a  b", ["a  b"]),
        ("  indented", ["  indented"]),
        ("one\n\n  two", ["one", "", "  two"]),
        ("trailing   \nx", ["trailing", "x"]),
        ("世界世界世界", ["世界世界世", "界"]),
        ("ab世界世界世界", ["ab世界世界", "世界"]),
        ("a\tb c", ["a\tb", "c"]),
    ],
)
def test_lines_end_between_words(text, lines):
    assert wrapped([text], 10).split("\n") == lines


def test_a_word_is_shown_when_it_has_ended():
    wrap = WordWrap(10)
    assert wrap.feed("Hel") == ""
    assert wrap.feed("lo wo") == "Hello"
    assert wrap.feed("rld") == ""
    assert wrap.finish() == "\nworld"


@given(st.lists(st.text("ab \n世", max_size=8), max_size=12), st.integers(4, 12))
def test_the_pieces_do_not_matter_and_no_line_is_too_long(pieces, width):
    whole = wrapped(["".join(pieces)], width)
    assert wrapped(pieces, width) == whole
    for line in whole.split("\n"):
        assert cell_len(line) <= width or " " not in line.strip()
    assert whole.replace("\n", "").replace(" ", "") == "".join(pieces).replace("\n", "").replace(" ", "")
