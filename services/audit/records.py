"""Whether a record is in its log already: the same record again is the same entry, other content is refused."""

from __future__ import annotations

from pathlib import Path

from services.audit.envelope import EnvelopeError
from services.audit.log import NewEntry, Receipt, RecordConflictError, RecordForgottenError, TenantLog
from services.audit.merkle import leaf_hash
from services.audit.record_window import KnownRecord, RecordWindow
from services.audit.segment_search import FoundEntry, find_index, find_records


def known_record(
    window: RecordWindow, folder: Path, log: TenantLog, new: NewEntry, *, settled: bool
) -> Receipt | None:
    """The receipt of a record that is in its log; None for a new one.

    Args:
        window: the records remembered.
        folder: the log's.
        log: where the record goes.
        new: the record.
        settled: its sequence was settled before, so it is no new record.

    Raises:
        RecordConflictError: it is there with other content, or its content cannot be compared any more.
        RecordForgottenError: it was settled before, and is not to be found.
        KeysetError: what is there does not open.
        SegmentDamagedError: what was folded is not what is there.
    """
    known = window.get(log.log_id, new.record_id)
    if known is None:
        found = _found(folder, log, new.record_id, settled=settled)
        if found is None:
            return None
        known = _opened(folder, log, found)
        window.remember(new.record_id, known.digest, known.receipt)
    if known.digest != new.content_digest():
        raise RecordConflictError
    return known.receipt


def _found(folder: Path, log: TenantLog, record_id: bytes, *, settled: bool) -> FoundEntry | None:
    index = log.recurring.get(record_id)
    if index is None and not settled:
        return None
    pending = next((one for one in log.pending if one.entry.header.record_id == record_id), None)
    if pending is not None:
        return pending.entry, pending.rest
    if index is not None:
        return find_index(folder, log.folded, index)
    found = find_records(folder, log.folded, [record_id]).get(record_id)
    if found is None:
        raise RecordForgottenError
    return found


def _opened(folder: Path, log: TenantLog, found: FoundEntry) -> KnownRecord:
    entry, rest = found
    receipt = Receipt(log.log_id, entry.header.index, leaf_hash(entry.encode()))
    dek_id = entry.header.dek_id
    opening = next((one.entry for one in log.pending if one.entry.header.record_id == dek_id), None)
    if opening is None:
        # A segment holds the entries of one key, and begins with that key's.
        first = entry.header.index - entry.header.counter
        opened = find_index(folder, log.folded, first)
        if opened is None or opened[0].header.record_id != dek_id:
            raise RecordConflictError
        opening = opened[0]
    try:
        return KnownRecord(receipt, log.digest_of(entry, rest, opening))
    except EnvelopeError:
        return KnownRecord(receipt, None)
