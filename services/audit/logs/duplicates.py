"""Finds records that are in their log already. The same record again is the same entry; other content is refused."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from services.audit.keys.envelope import EnvelopeError
from services.audit.logs.recent_records import KnownRecord, RecentRecords
from services.audit.logs.segment_search import FoundEntry, find_index, find_records
from services.audit.logs.tenant_log import (
    NewEntry,
    Receipt,
    RecordConflictError,
    RecordForgottenError,
    TenantLog,
)
from services.audit.proofs.merkle import leaf_hash


class DuplicateCheck:
    """Checks the entries of one batch. The segments of a log are searched once for all of them."""

    def __init__(
        self,
        recent: RecentRecords,
        folder_of: Callable[[bytes], Path],
        entries: Sequence[NewEntry],
        settled: Collection[int],
    ) -> None:
        self._recent = recent
        self._folder_of = folder_of
        self._entries = entries
        self._settled = settled
        self._found: dict[bytes, dict[bytes, FoundEntry]] = {}
        """By log_id, then record_id."""

    def known(self, log: TenantLog, place: int) -> Receipt | None:
        """The receipt of the batch's entry at `place` when its record is in its log already; None for a new one.

        Raises:
            RecordConflictError: the record has other content there, or its content can no longer be compared.
            RecordForgottenError: the sequence was settled before, so the record is not new, but it cannot be found.
            KeysetError: the content there does not open.
            SegmentDamagedError: a segment is damaged.
        """
        new = self._entries[place]
        known = self._recent.get(log.log_id, new.record_id)
        if known is None:
            if place not in self._settled and new.record_id not in log.recurring:
                return None
            known = self._opened(log, self._find(log, new.record_id))
            self._recent.remember(new.record_id, known.digest, known.receipt)
        if known.digest != new.content_digest():
            raise RecordConflictError
        return known.receipt

    def _find(self, log: TenantLog, record_id: bytes) -> FoundEntry:
        pending = next((one for one in log.pending if one.entry.header.record_id == record_id), None)
        if pending is not None:
            return pending.entry, pending.rest
        folder = self._folder_of(log.log_id)
        index = log.recurring.get(record_id)
        if index is not None:
            found = find_index(folder, log.folded, index)
        else:
            if log.log_id not in self._found:
                uid = log.folded.tenant_uid
                wanted = {
                    self._entries[place].record_id
                    for place in self._settled
                    if self._entries[place].tenant_uid == uid
                }
                self._found[log.log_id] = find_records(folder, log.folded, wanted)
            found = self._found[log.log_id].get(record_id)
        if found is None:
            raise RecordForgottenError
        return found

    def _opened(self, log: TenantLog, found: FoundEntry) -> KnownRecord:
        entry, rest = found
        receipt = Receipt(log.log_id, entry.header.index, leaf_hash(entry.encode()))
        dek_id = entry.header.dek_id
        opening = next((one.entry for one in log.pending if one.entry.header.record_id == dek_id), None)
        if opening is None:
            # A segment holds the entries of one key, and begins with that key's.
            first = find_index(
                self._folder_of(log.log_id), log.folded, entry.header.index - entry.header.counter
            )
            if first is None or first[0].header.record_id != dek_id:
                raise RecordConflictError
            opening = first[0]
        try:
            return KnownRecord(receipt, log.digest_of(entry, rest, opening))
        except EnvelopeError:
            return KnownRecord(receipt, None)
