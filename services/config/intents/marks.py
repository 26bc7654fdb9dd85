"""Marks: each change's transaction carries one, which names its intent and authenticates what is written. Pure.

A revision of live keys without a good mark was written around the config service, and raises the alarm. A mark is good
once, because a writer with access to etcd can put back an old value beside its old mark, for instance a key from before
it was revoked; `_Seen` detects that.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from services.common.clock import Clock
from services.config.etcd import keys as etcd_keys
from services.config.etcd.follower import KeyChange

MAX_OVERTAKING_MS = 60_000
"""Concurrent edits overtake each other by less than this: etcd gives up on a write sooner."""
_ID_BYTES = 16
_TIME_BYTES = 8
_DIGEST_BYTES = 32


class NoIntentError(Exception):
    """A revision has no intent; the text says why, and holds nothing of what was written."""


@dataclass(frozen=True, slots=True)
class _Mark:
    intent_id: bytes
    time_ms: int
    deleted_digest: bytes
    """Separate from the digest of what was put, since a list shows no deletions."""
    mac: bytes

    @classmethod
    def of(cls, value: bytes) -> _Mark:
        if len(value) != _ID_BYTES + _TIME_BYTES + 2 * _DIGEST_BYTES:
            raise NoIntentError("its mark is not one")
        intent_id, rest = value[:_ID_BYTES], value[_ID_BYTES:]
        time_ms, rest = int.from_bytes(rest[:_TIME_BYTES], "big"), rest[_TIME_BYTES:]
        return cls(intent_id, time_ms, rest[:_DIGEST_BYTES], rest[_DIGEST_BYTES:])

    def bound(self) -> bytes:
        return self.intent_id + self.time_ms.to_bytes(_TIME_BYTES, "big") + self.deleted_digest


class _Seen:
    """Recognises a mark's first use.

    A mark's time is the writer's clock, or one after the newest mark where that is ahead: so it is newer than every
    mark seen when it was made, even when clocks differ. A mark far behind the newest one is a repetition; those near it
    are remembered.
    """

    def __init__(self) -> None:
        self.newest_ms = 0
        self._revisions: OrderedDict[bytes, tuple[int, int]] = OrderedDict()

    def is_first(self, mark: _Mark, revision: int) -> bool:
        oldest_ms = self.newest_ms - MAX_OVERTAKING_MS
        known, _ = self._revisions.setdefault(mark.intent_id, (revision, mark.time_ms))
        if known != revision:  # proven: a-mark-is-good-once
            return False
        if mark.time_ms < oldest_ms:  # proven: old-marks-are-used
            del self._revisions[mark.intent_id]
            return False
        self.newest_ms = max(self.newest_ms, mark.time_ms)
        while next(iter(self._revisions.values()))[1] < self.newest_ms - MAX_OVERTAKING_MS:
            self._revisions.popitem(last=False)
        return True


class IntentMarks:
    """Makes and checks marks under a key derived from the root key."""

    def __init__(self, key: bytes, clock: Clock) -> None:
        self._key = key
        self._clock = clock
        self._seen = _Seen()
        self._made_ms = 0

    def mark(self, intent_id: bytes, puts: Mapping[str, bytes], deletes: Iterable[str]) -> bytes:
        """Make a mark: the intent's id, a time, and a MAC over both and over every live key of the write."""
        known_ms = max(self._made_ms, self._seen.newest_ms)
        self._made_ms = max(int(1000 * self._clock.wall_seconds()), known_ms) + 1  # proven: marks-only-rise
        unsigned = _Mark(intent_id, self._made_ms, _deleted_digest(deletes), b"")
        return unsigned.bound() + self._mac(unsigned, puts)

    def history_ended(self) -> None:
        """Forget the marks seen: etcd was restored or exchanged, and its newest mark may be an old one."""
        self._made_ms = max(self._made_ms, self._seen.newest_ms)
        self._seen = _Seen()

    def intent_of(self, changes: Iterable[KeyChange], revision: int) -> bytes:
        """Check the mark of one revision's changes; returns the intent's id.

        Raises:
            NoIntentError: the mark is missing, not for these changes, or used before.
        """
        changes = list(changes)
        gone = [change.key for change in changes if change.stored is None]
        return self._intent_of(_puts(changes), revision, _deleted_digest(gone))

    def intent_in_list(self, changes: Iterable[KeyChange], revision: int) -> bytes:
        """Check the mark of the part of a revision that a list still shows; deletions are not checked.

        Raises:
            NoIntentError: the mark is missing, not for these changes, or used before.
        """
        return self._intent_of(_puts(changes), revision, None)

    def _intent_of(self, puts: dict[str, bytes], revision: int, deleted_digest: bytes | None) -> bytes:
        value = puts.get(etcd_keys.INTENT)
        if value is None:
            raise NoIntentError("it carries no mark")
        mark = _Mark.of(value)
        same_deletions = deleted_digest is None or hmac.compare_digest(deleted_digest, mark.deleted_digest)
        if not same_deletions or not hmac.compare_digest(mark.mac, self._mac(mark, puts)):
            raise NoIntentError("its mark is not for what was written")
        if not self._seen.is_first(mark, revision):
            raise NoIntentError("its mark is an earlier edit's")
        return mark.intent_id

    def _mac(self, mark: _Mark, puts: Mapping[str, bytes]) -> bytes:
        mac = hmac.new(self._key, b"tenantry/intent/v1\0" + mark.bound(), hashlib.sha256)
        for key in sorted(key for key in puts if _is_marked(key)):
            mac.update(_framed(key) + hashlib.sha256(puts[key]).digest())
        return mac.digest()


def _puts(changes: Iterable[KeyChange]) -> dict[str, bytes]:
    return {change.key: change.stored.value for change in changes if change.stored is not None}


def _deleted_digest(keys: Iterable[str]) -> bytes:
    return hashlib.sha256(b"".join(_framed(key) for key in sorted(keys) if _is_marked(key))).digest()


def _is_marked(key: str) -> bool:
    return key.startswith(etcd_keys.LIVE) and key != etcd_keys.INTENT


def _framed(key: str) -> bytes:
    name = key.encode()
    return len(name).to_bytes(4, "big") + name
