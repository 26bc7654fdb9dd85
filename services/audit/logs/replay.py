"""Puts the entries of the journal back into the logs after a stop of any kind.

Entries of a log that cannot be opened, or that lacks entries before them, are held for it. The other logs go on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from services.audit.keys.envelope import EnvelopeError
from services.audit.keys.wrap import KeysetError
from services.audit.logs.open_logs import OpenLogs
from services.audit.logs.recent_records import RecentRecords
from services.audit.logs.segment_search import find_records
from services.audit.logs.segments import SegmentDamagedError
from services.audit.logs.tenant_log import LogDamagedError, PendingFrame, Receipt, TenantLog
from services.audit.proofs.entry import ID_BYTES, Entry, EntryKind
from services.audit.storage.frames import FrameKind, SessionMark, split_entry
from services.audit.storage.journal_position import JournalPosition
from services.audit.storage.recovery import PlacedFrame
from services.audit.storage.state_directory import StateIncompleteError

_log = logging.getLogger(__name__)


class Replay:
    """One start's reading of the journal."""

    def __init__(self, logs: OpenLogs, recent: RecentRecords, position: JournalPosition) -> None:
        self._logs = logs
        self._recent = recent
        self._position = position
        self._openings: dict[bytes, Entry] = {}
        """DEK_OPEN entries by dek_id."""
        self._held: dict[bytes, list[bytes]] = {}
        """By log_id."""
        self.touched: set[str] = set()
        """Tenants whose logs have grown."""

    def run(self, frames: Iterable[PlacedFrame]) -> None:
        """Take every frame, in the journal's order.

        Raises:
            StateIncompleteError: the journal holds entries of a log that the list of logs lacks.
        """
        for placed in frames:
            if placed.frame.kind in (FrameKind.DATA, FrameKind.DEK_OPEN):
                self._take_entry(placed)
            elif placed.frame.kind is FrameKind.CHECKPOINT:
                log = self._log(placed.frame.body[:ID_BYTES])
                if log is not None:
                    log.checkpoint_note = placed.frame.body[ID_BYTES:]
            elif placed.frame.kind is FrameKind.SESSION:
                self._position.remember([SessionMark.of(placed.frame)])
        for log_id, held in self._held.items():
            self._logs.hold(log_id, held)

    def _log(self, log_id: bytes) -> TenantLog | None:
        """None for a log that cannot be opened, and for one that was closed because its tenant got a new log."""
        owner = self._logs.registry.owner(log_id)
        if owner is None:
            if self._logs.registry.is_known(log_id.hex()):
                return None
            raise StateIncompleteError("logs/tenants.json lacks a log that the journal has entries of")
        try:
            return self._logs.readable(owner)
        except LogDamagedError:
            return None

    def _take_entry(self, placed: PlacedFrame) -> None:
        entry, _ = split_entry(placed.frame)
        log_id = entry.header.log_id
        data = placed.place.encode() + placed.data
        log = self._log(log_id)
        if log is None:
            self._held.setdefault(log_id, []).append(data)
            return
        tenant_uid = log.folded.tenant_uid
        try:
            taken = log.replay(data, placed.frame)
        except LogDamagedError as damage:
            self._logs.give_up(tenant_uid, damage.why)
            self._held.setdefault(log_id, []).append(data)
            return
        if entry.header.kind is EntryKind.DEK_OPEN:
            self._openings[entry.header.dek_id] = entry
        elif taken is not None:
            receipt = Receipt(log.log_id, entry.header.index, taken.leaf)
            self._recent.remember(entry.header.record_id, self._digest(log, taken), receipt)
        if taken is not None:
            self.touched.add(tenant_uid)

    def _digest(self, log: TenantLog, taken: PendingFrame) -> bytes | None:
        """None when the content does not open: the same record is refused then, and an export reports the damage."""
        dek_id = taken.entry.header.dek_id
        try:
            if dek_id not in self._openings:
                found = find_records(self._logs.folder(log.log_id), log.folded, [dek_id])
                self._openings[dek_id] = found[dek_id][0]
            return log.digest_of(taken.entry, taken.rest, self._openings[dek_id])
        except (KeysetError, EnvelopeError, SegmentDamagedError, KeyError) as error:
            _log.error("entry %d of %s does not open: %s", taken.entry.header.index, log.origin, error)
            return None
