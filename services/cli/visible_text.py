r"""Escapes what a terminal would obey and a reader would not see; the only module that decides which characters.

Control characters (C0, DEL, C1), format characters such as bidirectional overrides, line and paragraph separators and
lone surrogates become escapes: `\n`, `\x9b`, `\u202e`. Unicode calls them Cc, Cf, Zl, Zp and Cs (Unicode Standard,
section 4.5). See also CVE-2021-42574.
"""

from __future__ import annotations

import re
import unicodedata

_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
# Everything but printable ASCII; `_escaped` decides about the rest.
_SUSPECT = re.compile(r"[^\x20-\x7e]")
# Persian needs the one, joined emoji the other; neither moves or hides anything.
_KEPT_IN_PROSE = {"\n", "\t", "\u200c", "\u200d"}


def one_line(text: str) -> str:
    """The text on one line, with every invisible character escaped: for table cells, messages and prompts."""
    return _SUSPECT.sub(lambda found: _escaped(found[0]), text)


def prose(text: str) -> str:
    """The text with its line breaks and tabs, every other invisible character escaped: for a model's answer."""
    return _SUSPECT.sub(lambda found: found[0] if found[0] in _KEPT_IN_PROSE else _escaped(found[0]), text)


def has_invisible(text: str) -> bool:
    """Whether a text holds a character that `prose` escapes."""
    return prose(text) != text


def json_escaped(json_text: str) -> str:
    r"""JSON of the same value, with every invisible character as `\uXXXX`.

    Args:
        json_text: without line breaks between its tokens, so that what is escaped stands in a string.
    """
    return _SUSPECT.sub(lambda found: _as_utf16(found[0]) if _is_invisible(found[0]) else found[0], json_text)


def yaml_escaped(yaml_text: str) -> str:
    """YAML of the same value, with every invisible character escaped but line breaks and tabs.

    Args:
        yaml_text: holds such characters in double-quoted scalars only.
    """
    return _SUSPECT.sub(
        lambda found: _escaped(found[0]) if found[0] not in "\n\t" else found[0],
        yaml_text,
    )


def _is_invisible(character: str) -> bool:
    return unicodedata.category(character) in _INVISIBLE


def _escaped(character: str) -> str:
    if not _is_invisible(character):
        return character
    code = ord(character)
    if code > 0xFFFF:
        return f"\\U{code:08x}"
    return _NAMED.get(character) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def _as_utf16(character: str) -> str:
    r"""`\uXXXX`, twice for a character outside of the first plane (RFC 8259, section 7)."""
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
