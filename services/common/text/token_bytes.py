"""The bytes of the tokens of a byte-level BPE tokeniser, which are spelled in GPT-2's byte alphabet. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's alphabet: printable Latin-1 characters stand for themselves, the rest for U+0100 onwards."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(value): value for value in printable}
    shifted = (value for value in range(256) if value not in set(printable))
    alphabet.update({chr(0x100 + place): value for place, value in enumerate(shifted)})
    return alphabet


_BYTE_OF = _byte_alphabet()


def token_bytes(vocabulary: Mapping[str, int], silent_ids: Iterable[int]) -> tuple[bytes, ...]:
    """The bytes of every token id, in order; empty for silent (special) ids and for holes in the vocabulary.

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
