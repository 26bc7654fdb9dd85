"""Which characters are refused and escaped, and that ordinary text of any language is neither."""

from __future__ import annotations

import pytest

from services.common.misleading_text import escaped, misleading_in

ORDINARY = [
    "plain",
    "Grüße",
    "你好",
    "\u05e9\u05dc\u05d5\u05dd",
    "\u200f\u061c",
    "\u0646\u0627\u0645\u0647\u200c\u0627\u06cc",
    "👩\u200d💻",
    "",
]


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_is_left_alone(text):
    assert misleading_in(text) is None
    assert escaped(text) == text


@pytest.mark.parametrize(
    ("character", "named", "escape"),
    [
        ("\x00", "U+0000, a control character", r"\x00"),
        ("\t", "U+0009, a control character", r"\x09"),
        ("\n", "U+000A, a line break", r"\x0a"),
        ("\x1b", "U+001B, a control character", r"\x1b"),
        ("\x7f", "U+007F, a control character", r"\x7f"),
        ("\x85", "U+0085, a line break", r"\x85"),
        ("\x9b", "U+009B, a control character", r"\x9b"),
        ("\u2028", "U+2028, a line break", r"\u2028"),
        ("\u202e", "U+202E, which changes the direction of text", r"\u202e"),
        ("\u2066", "U+2066, which changes the direction of text", r"\u2066"),
        ("\ud83d", "U+D83D, half of a surrogate pair", r"\ud83d"),
    ],
)
def test_what_misleads_is_named_and_escaped(character, named, escape):
    assert misleading_in(f"a{character}b{character}") == named
    assert escaped(f"a{character}b") == f"a{escape}b"


def test_tabs_and_line_ends_are_allowed_where_lines_are():
    assert misleading_in("a\tb\r\nc", lines=True) is None
    assert misleading_in("a\n\x1b", lines=True) == "U+001B, a control character"
    assert misleading_in("a\u2029", lines=True) == "U+2029, a line break"


def test_what_is_escaped_has_utf_8():
    assert escaped("".join(map(chr, range(0x10000)))).encode()
