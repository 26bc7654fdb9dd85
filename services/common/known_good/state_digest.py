"""One digest over all items of a state. Its cost grows with the changes, not with the size of the state. Pure.

docs/formats/last-known-good.md specifies it: SHA-256 over 256 buckets, each over its items' digests in the order of
their keys.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

BUCKETS = 256
_KEY_LENGTH_BYTES = 4


class StateDigest:
    """Keeps the digest up to date as items are put and removed."""

    def __init__(self) -> None:
        self._items: list[dict[str, bytes]] = [{} for _ in range(BUCKETS)]
        self._buckets: list[bytes | None] = [None] * BUCKETS

    def put(self, key: str, value: bytes) -> None:
        """Add or replace an item."""
        bucket, leaf = _placed(key, value)
        self._items[bucket][key] = leaf
        self._buckets[bucket] = None  # proven: bucket-is-counted-again

    def remove(self, key: str) -> None:
        """Remove an item, if it is there."""
        bucket, _ = _placed(key, b"")
        if self._items[bucket].pop(key, None) is not None:
            self._buckets[bucket] = None

    def hexdigest(self) -> str:
        """The digest of all items, in lowercase hex."""
        root = hashlib.sha256(b"\x02")
        for place, items in enumerate(self._items):
            digest = self._buckets[place]
            if digest is None:
                digest = hashlib.sha256(b"\x01" + b"".join(items[key] for key in sorted(items))).digest()
                self._buckets[place] = digest
            root.update(digest)
        return root.hexdigest()


def digest_of(items: Iterable[tuple[str, bytes]]) -> str:
    """The digest of a whole state, in lowercase hex."""
    digest = StateDigest()
    for key, value in items:
        digest.put(key, value)
    return digest.hexdigest()


def _placed(key: str, value: bytes) -> tuple[int, bytes]:
    name = key.encode()
    leaf = hashlib.sha256(b"\x00" + len(name).to_bytes(_KEY_LENGTH_BYTES, "big") + name + value)
    return hashlib.sha256(name).digest()[0], leaf.digest()
