"""Tokens to text, piece by piece, never splitting a character.

For byte-level BPE (GPT-2's byte alphabet): a token is a few bytes, which may begin or end inside a UTF-8
sequence. The pieces joined are exactly what decoding the whole would give, replacement characters included.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Mapping, Sequence


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's alphabet: printable Latin-1 characters stand for themselves, the rest for U+0100 onwards."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(value): value for value in printable}
    shifted = (value for value in range(256) if value not in set(printable))
    alphabet.update({chr(0x100 + place): value for place, value in enumerate(shifted)})
    return alphabet


_BYTE_OF = _byte_alphabet()


def token_bytes(vocabulary: Mapping[str, int], silent_ids: Iterable[int]) -> tuple[bytes, ...]:
    """The bytes of every token id; empty for silent (special) ids and for holes in the vocabulary.

    A token with a character outside the alphabet stands for its own UTF-8 bytes.
    """
    table = [b""] * (max(vocabulary.values(), default=-1) + 1)
    silent = set(silent_ids)
    for token, token_id in vocabulary.items():
        if token_id in silent:
            continue
        try:
            table[token_id] = bytes([_BYTE_OF[character] for character in token])
        except KeyError:
            table[token_id] = token.encode()
    return tuple(table)


class Detokeniser:
    """One answer's decoder; costs a table look-up and a few bytes of UTF-8 a token."""

    def __init__(self, table: Sequence[bytes]) -> None:
        self._table = table
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token_ids: Iterable[int]) -> str:
        """The text that is certain after these tokens; an id outside the vocabulary adds nothing."""
        table, size = self._table, len(self._table)
        return self._decoder.decode(
            b"".join([table[token_id] for token_id in token_ids if 0 <= token_id < size])
        )

    def finish(self) -> str:
        """What the bytes still held come to: a replacement character for a sequence that never ended."""
        return self._decoder.decode(b"", final=True)
