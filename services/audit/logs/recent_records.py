"""The records that the service remembers, of all logs together, so that one sent again is one entry.

What has to be remembered is what writers may not have heard of yet, and that is bounded for each writer, not for each
log. Digests of plain text are in memory only: on disk they would let a guess be checked after the key is destroyed.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from services.audit.logs.tenant_log import Receipt

REMEMBERED_RECORDS = 65_536


@dataclass(frozen=True, slots=True)
class KnownRecord:
    """A record that is in a log."""

    receipt: Receipt
    digest: bytes | None
    """Of its content; None where the content cannot be read any more."""


class RecentRecords:
    """The newest records; the oldest are forgotten when there are too many."""

    def __init__(self, size: int = REMEMBERED_RECORDS) -> None:
        self._size = size
        self._records: OrderedDict[tuple[bytes, bytes], KnownRecord] = OrderedDict()

    def get(self, log_id: bytes, record_id: bytes) -> KnownRecord | None:
        """A record of a log, where it is remembered."""
        return self._records.get((log_id, record_id))

    def remember(self, record_id: bytes, digest: bytes | None, receipt: Receipt) -> None:
        """Keep a record."""
        self._records[receipt.log_id, record_id] = KnownRecord(receipt, digest)
        if len(self._records) > self._size:
            self._records.popitem(last=False)
