"""What a scripted model says: a function of the adapter's id and the prompt, nothing else."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator

# Knuth's constants for MMIX.
_MULTIPLIER = 6364136223846793005
_INCREMENT = 1442695040888963407
_MASK = (1 << 64) - 1


def answer(
    lora_id: int | None, input_ids: bytes, first_token: int, vocabulary_tokens: int, end_token: int | None
) -> Iterator[int]:
    """Endless token ids, never the end token.

    Args:
        lora_id: the adapter; none for the base model.
        input_ids: the prompt as int32, little endian.
        first_token: the lowest id said.
        vocabulary_tokens: the first id that is too high.
        end_token: left out.
    """
    adapter = b"" if lora_id is None else struct.pack("<Q", lora_id)
    state = int.from_bytes(hashlib.blake2b(adapter + input_ids, digest_size=8).digest(), "little")
    span = vocabulary_tokens - first_token
    while True:
        state = (state * _MULTIPLIER + _INCREMENT) & _MASK
        token = first_token + (state >> 33) % span
        if token != end_token:
            yield token
