"""Remembers the newest records of all logs together, so that a record sent again stays one entry.

A record has to be remembered until its writer has the ack. The number of such records is bounded for each writer, not
for each log. Digests of plain text stay in memory: on disk they would let a guess be checked after the key is
destroyed.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from services.audit.logs.tenant_log import Receipt

REMEMBERED_RECORDS = 65_536


@dataclass(frozen=True, slots=True)
class KnownRecord:
    """A record that a log holds."""

    receipt: Receipt
    digest: bytes | None
    """Digest of its content; None when the content can no longer be read."""


class RecentRecords:
    """The newest records. The oldest one is forgotten when there are too many."""

    def __init__(self, size: int = REMEMBERED_RECORDS) -> None:
        self._size = size
        self._records: OrderedDict[tuple[bytes, bytes], KnownRecord] = OrderedDict()

    def get(self, log_id: bytes, record_id: bytes) -> KnownRecord | None:
        """A record of a log; None when it is not remembered."""
        return self._records.get((log_id, record_id))

    def remember(self, record_id: bytes, digest: bytes | None, receipt: Receipt) -> None:
        """Keep a record."""
        self._records[receipt.log_id, record_id] = KnownRecord(receipt, digest)
        if len(self._records) > self._size:
            self._records.popitem(last=False)
