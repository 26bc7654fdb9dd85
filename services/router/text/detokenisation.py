"""Tokens to text, piece by piece, never splitting a character.

For byte-level BPE: a token is a few bytes, which may begin or end inside a UTF-8 sequence. The pieces joined are
exactly what decoding the whole would give, replacement characters included.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence


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
