"""Decodes tokens to text piece by piece, without splitting a character. Pure.

For byte-level BPE: a token is a few bytes, which may begin or end inside a UTF-8 sequence. The joined pieces equal the
decoding of the whole, replacement characters included.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence


class Detokeniser:
    """The decoder of one answer; a token costs one table look-up."""

    def __init__(self, table: Sequence[bytes]) -> None:
        self._table = table
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token_ids: Iterable[int]) -> str:
        """The text that these tokens complete; an id outside the vocabulary adds nothing."""
        table, size = self._table, len(self._table)
        return self._decoder.decode(
            b"".join([table[token_id] for token_id in token_ids if 0 <= token_id < size])
        )

    def finish(self) -> str:
        """The rest: a replacement character for a UTF-8 sequence that was not completed."""
        return self._decoder.decode(b"", final=True)
