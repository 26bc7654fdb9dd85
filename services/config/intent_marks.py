"""The mark each admin edit leaves in its own transaction: which intent it carries out. Pure.

A revision of live keys without a good mark was not written by a config service: somebody reached etcd around the
operator audit log, and the alarm is raised.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping

from services.config import layout
from services.config.etcd.watch_state import Change

_ID_BYTES = 16
_MAC_BYTES = 32


class IntentMarks:
    """Makes and checks marks under a key derived from the root key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def mark(self, intent_id: bytes, puts: Mapping[str, bytes], deletes: Iterable[str]) -> bytes:
        """The value of the mark's key: the intent's id, and a MAC over it and every live key of the write."""
        written: dict[str, bytes | None] = {**puts, **dict.fromkeys(deletes)}
        return intent_id + self._mac(intent_id, written)

    def intent_of(self, changes: Iterable[Change]) -> bytes | None:
        """The intent that the changes of one revision carry out; None when no good mark is among them."""
        written = {change.key: change.stored.value if change.stored else None for change in changes}
        mark = written.pop(layout.INTENT, None)
        if mark is None or len(mark) != _ID_BYTES + _MAC_BYTES:
            return None
        intent_id, mac = mark[:_ID_BYTES], mark[_ID_BYTES:]
        return intent_id if hmac.compare_digest(mac, self._mac(intent_id, written)) else None

    def _mac(self, intent_id: bytes, written: Mapping[str, bytes | None]) -> bytes:
        mac = hmac.new(self._key, b"tenantry/intent/v1\0" + intent_id, hashlib.sha256)
        for key in sorted(key for key in written if key.startswith(layout.LIVE) and key != layout.INTENT):
            value = written[key]
            name = key.encode()
            mac.update(len(name).to_bytes(4, "big") + name)
            mac.update(b"\0" if value is None else b"\1" + hashlib.sha256(value).digest())
        return mac.digest()
