r"""Finds, names and escapes characters that mislead the reader of a text. Pure.

Control characters (C0, DEL, C1) can command a terminal, line and paragraph separators (U+2028, U+2029) can forge a row,
bidirectional embeddings, overrides and isolates show a text in another order (UAX #9; CVE-2021-42574), and a lone
surrogate cannot be encoded.
"""

from __future__ import annotations

import re

_MISLEADING = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_MISLEADING_IN_LINES = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_LINE_BREAKS = "\n\x0b\x0c\r\x1c\x1d\x1e\x85\u2028\u2029"


def misleading_in(text: str, *, lines: bool = False) -> str | None:
    r"""Name the first misleading character of a text, such as `U+001B, a control character`; None for none.

    Args:
        text: any string.
        lines: whether `\t`, `\n` and `\r` are allowed, as in a system prompt.
    """
    found = (_MISLEADING_IN_LINES if lines else _MISLEADING).search(text)
    return None if found is None else f"U+{ord(found[0]):04X}, {_kind(found[0])}"


def escaped(text: str) -> str:
    r"""The text with each misleading character as an escape: `\x1b`, `\u202e`."""
    return _MISLEADING.sub(lambda found: _escape(found[0]), text)


def _kind(character: str) -> str:
    if character in _LINE_BREAKS:
        return "a line break"
    if character < "\xa0":
        return "a control character"
    if "\ud800" <= character <= "\udfff":
        return "half of a surrogate pair"
    return "which changes the direction of text"


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
