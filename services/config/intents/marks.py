"""The mark each admin edit leaves in its own transaction: which intent it carries out. Pure.

A revision of live keys without a good mark was not written by a config service: somebody reached etcd around the
operator audit log, and the alarm is raised. A mark is good once: whoever writes etcd can put back an old value beside
its old mark, for instance a key from before it was revoked, and that is told apart by `_Seen`.
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
"""Edits under way at once overtake each other by less: what etcd has not written by then it gave up."""
_ID_BYTES = 16
_TIME_BYTES = 8
_DIGEST_BYTES = 32


class NoIntentError(Exception):
    """A revision carries out no intent; the text says why, and nothing of what was written."""


@dataclass(frozen=True, slots=True)
class _Mark:
    intent_id: bytes
    time_ms: int
    deleted_digest: bytes
    """Apart from what was put: a list shows no deletions."""
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
    """Tells a mark's first use from every other.

    Marks count time by the writer's clock, or on from the newest mark where that is ahead: so each is newer than those
    that were seen when it was made, whatever clocks say. What is far behind the newest is a repetition; what is near it
    is remembered.
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
        """The value of the mark's key: the intent's id, a time, and a MAC over them and every live key of the write."""
        self._made_ms = (
            max(int(1000 * self._clock.wall_seconds()), self._made_ms, self._seen.newest_ms) + 1
        )  # proven: marks-only-rise
        unsigned = _Mark(intent_id, self._made_ms, _deleted_digest(deletes), b"")
        return unsigned.bound() + self._mac(unsigned, puts)

    def history_ended(self) -> None:
        """Etcd was restored or exchanged: its newest mark may be an old one, rightly."""
        self._made_ms = max(self._made_ms, self._seen.newest_ms)
        self._seen = _Seen()

    def intent_of(self, changes: Iterable[KeyChange], revision: int) -> bytes:
        """The intent that the changes of one revision carry out.

        Raises:
            NoIntentError: none, as far as its mark can show.
        """
        changes = list(changes)
        gone = [change.key for change in changes if change.stored is None]
        return self._intent_of(_puts(changes), revision, _deleted_digest(gone))

    def intent_in_list(self, changes: Iterable[KeyChange], revision: int) -> bytes:
        """The same of what a list still shows of its newest mark's revision: what it deleted is taken on trust.

        Raises:
            NoIntentError: none.
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
