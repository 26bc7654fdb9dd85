"""Keeps compiled sets of patterns, by bytes, with a share for each tenant that uses them. Pure.

Tenants with the same patterns share a set and what it takes. When there is no room, the tenant that holds most loses
the set that it used longest ago: one that changes its patterns all the time evicts its own.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from services.router.guardrails.pattern_sets import PatternSet

_SET_BYTES = 8 << 10
_INSTRUCTION_BYTES = 32
"""Measured: 8 to 25 KB for sets of 46 to 940 instructions, once searched. Text that is made for it takes a set's
automaton to `pattern_sets.SET_MEMORY_BYTES`."""


def size_bytes(patterns: PatternSet) -> int:
    """What a compiled set takes, as an estimate."""
    return _SET_BYTES + _INSTRUCTION_BYTES * patterns.program_size


@dataclass(slots=True)
class _Kept:
    patterns: PatternSet
    bytes: int
    users: int = 0


@dataclass(slots=True)
class _Holdings:
    """What one tenant uses."""

    shares: OrderedDict[bytes, float] = field(default_factory=OrderedDict)
    """By key, the one that it used longest ago first: the bytes that count as its own."""
    bytes: float = 0.0


class PatternCache:
    """The compiled sets of one process.

    Args:
        most_bytes: of all sets together; the set that was put last is kept in any case.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._kept: dict[bytes, _Kept] = {}
        self._holdings: dict[str, _Holdings] = {}
        """By tenant."""
        self.bytes = 0
        """Of all sets."""

    def __len__(self) -> int:
        """How many sets there are."""
        return len(self._kept)

    def peek(self, key: bytes) -> PatternSet | None:
        """A set, without using it; from any thread."""
        kept = self._kept.get(key)
        return None if kept is None else kept.patterns

    def use(self, tenant_uid: str, key: bytes) -> PatternSet | None:
        """A set that a tenant uses now; None if it is not kept."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        holdings = self._holdings.get(tenant_uid)
        if holdings is None:
            holdings = self._holdings[tenant_uid] = _Holdings()
        if key not in holdings.shares:
            kept.users += 1
            # As of now: to follow all who join would cost a popular set's every user a count.
            holdings.shares[key] = kept.bytes / kept.users
            holdings.bytes += holdings.shares[key]
        holdings.shares.move_to_end(key)
        return kept.patterns

    def put(self, tenant_uid: str, key: bytes, patterns: PatternSet) -> None:
        """Keep a set that a tenant uses."""
        if key not in self._kept:
            self._kept[key] = _Kept(patterns, size_bytes(patterns))
            self.bytes += self._kept[key].bytes
        self.use(tenant_uid, key)
        while self.bytes > self._most_bytes and len(self._kept) > 1:
            self._evict_one(keep=key)

    def _evict_one(self, keep: bytes) -> None:
        """Take one set from the tenant that holds most, besides the one that was put just now."""
        # Whoever holds nothing but that set may be heavier, and has nothing to lose.
        able = (uid for uid, held in self._holdings.items() if len(held.shares) > (keep in held.shares))
        heaviest = max(able, key=lambda uid: self._holdings[uid].bytes)  # proven: the-heaviest-loses
        oldest = next(key for key in self._holdings[heaviest].shares if key != keep)
        self._forget(heaviest, oldest)

    def _forget(self, tenant_uid: str, key: bytes) -> None:
        holdings, kept = self._holdings[tenant_uid], self._kept[key]
        holdings.bytes -= holdings.shares.pop(key)
        if not holdings.shares:
            del self._holdings[tenant_uid]
        kept.users -= 1
        if not kept.users:
            del self._kept[key]
            self.bytes -= kept.bytes
