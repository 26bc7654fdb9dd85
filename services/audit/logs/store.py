"""All logs over one journal: commits batches, folds, recovers. Blocking and single-threaded; the appender owns it.

LOCK   wal/   wal.json   keyring/<log_id>   logs/<log_id>/{segments,state.json,checkpoint}   logs/tenants.json

Work that grows with the number of tenants is done in slices, so that a batch waits for one slice at most.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.audit.keys.root import KeyProvider
from services.audit.keys.signing import SigningKeys
from services.audit.keys.wrap import KeysetError
from services.audit.logs.duplicates import DuplicateCheck
from services.audit.logs.fold import FoldPass, fold_some, has_more, is_changed
from services.audit.logs.log_registry import LogRegistry
from services.audit.logs.open_logs import OpenLogs
from services.audit.logs.receipt_lookup import LogView
from services.audit.logs.recent_records import RecentRecords
from services.audit.logs.replay import Replay
from services.audit.logs.segments import SegmentDamagedError
from services.audit.logs.tenant_log import (
    LogDamagedError,
    NewEntry,
    PendingFrame,
    Receipt,
    RecordConflictError,
    RecordForgottenError,
    TenantLog,
)
from services.audit.proofs.signed_note import NoteSigner
from services.audit.storage.frames import Frame, FrameKind, SessionMark
from services.audit.storage.journal import JournalWriter
from services.audit.storage.journal_position import JournalPosition
from services.audit.storage.recovery import recover
from services.audit.storage.state_directory import POSITION, StateDirectory, StateIncompleteError, is_unused
from services.common.clock import Clock
from services.common.durable_files import remove_file, replace_file, sync_file

_log = logging.getLogger(__name__)
FOLD_BYTES = 32 << 20
CLOSE_SECONDS = 1.0

Result = Receipt | RecordConflictError | RecordForgottenError | LogDamagedError
"""The result of appending an entry."""


@dataclass(frozen=True, slots=True)
class _JournalEnd:
    """The end of the journal when a fold began, and its files up to there."""

    files: list[Path]
    incarnation: int
    next_batch: int
    previous: bytes


class LogStore:
    """Every tenant's log of one state directory.

    Raises:
        JournalDamagedError: acknowledged entries are lost.
        StateIncompleteError: the journal's position or the list of logs is missing.
        StateFileError: one of them is damaged.
    """

    def __init__(
        self, directory: StateDirectory, keys: SigningKeys, provider: KeyProvider, clock: Clock
    ) -> None:
        self._directory = directory
        self._root = root = directory.root
        self._keys = keys
        self._clock = clock
        self._dirty: set[str] = set()
        self._unfolded_bytes = 0
        self._pass: FoldPass | None = None
        registry_path = root / "logs" / "tenants.json"
        unused = is_unused(root)
        for path in (root / POSITION, registry_path):
            if not unused and not path.exists():
                raise StateIncompleteError(f"{path} is missing: restore it from the volume's copy")
        registry = LogRegistry(registry_path)
        if unused:
            registry.save()
            replace_file(root / POSITION, JournalPosition().encode())
        self._logs = OpenLogs(root, registry, provider)
        self._recent = RecentRecords()
        self._position = JournalPosition.read(root / POSITION)
        self._recover()

    @property
    def sessions(self) -> dict[bytes, SessionMark]:
        """The settled sequences of each writer's session, by session id."""
        return self._position.sessions

    @property
    def logs(self) -> OpenLogs:
        """The open and the quarantined logs."""
        return self._logs

    def tenant_uids(self) -> list[str]:
        """Every tenant that has a log."""
        return self._logs.registry.tenant_uids()

    def log(self, tenant_uid: str, *, create: bool = False) -> TenantLog | None:
        """A tenant's log, opened on first use; None when the tenant has none and `create` is false.

        Raises:
            LogDamagedError: it cannot be opened.
        """
        if create:
            self._logs.begin([tenant_uid])
        return self._logs.readable(tenant_uid)

    def folder(self, log_id: bytes) -> Path:
        """The folder of a log."""
        return self._logs.folder(log_id)

    def view(self, log_id: str, index: int) -> LogView | None:
        """A view that says whether a log holds the entry of an index; None when no open log has that id, in hex."""
        tenant_uid = self._logs.registry.owner_of(log_id)
        if tenant_uid is None:
            return None
        folder = self._logs.folder(bytes.fromhex(log_id))
        if not self._logs.is_open(tenant_uid):
            return LogView(tenant_uid, folder, None, None)
        try:
            log = self._logs.readable(tenant_uid)
        except LogDamagedError:
            return LogView(tenant_uid, folder, None, None)
        assert log is not None
        place = index - log.folded.size
        leaf = log.pending[place].leaf if 0 <= place < len(log.pending) else None
        return LogView(tenant_uid, folder, log.folded, leaf)

    def commit(
        self,
        entries: Sequence[NewEntry],
        marks: Sequence[SessionMark],
        checkpoints: Sequence[str] = (),
        settled: Collection[int] = (),
    ) -> list[Result]:
        """Append entries and make them durable. Results come in the order of the entries.

        Args:
            entries: the entries.
            marks: the settled sequences of writers' sessions, as they are when these entries are durable.
            checkpoints: tenants whose logs get a checkpoint.
            settled: places of entries whose sequence was settled before: they are in a log, or were refused.
        """
        now_ns = int(self._clock.wall_seconds() * 1e9)
        made: list[tuple[TenantLog, PendingFrame, Frame]] = []
        results: list[Result] = []
        known = DuplicateCheck(self._recent, self.folder, entries, settled)
        self._logs.begin({new.tenant_uid for new in entries})
        for place, new in enumerate(entries):
            try:
                log = self._logs.writable(new.tenant_uid)
                receipt = known.known(log, place)
                if receipt is None:
                    appended, receipt = log.append(new, now_ns)
                    made += [(log, pending, frame) for pending, frame in appended]
                    self._recent.remember(new.record_id, new.content_digest(), receipt)
                    self._dirty.add(new.tenant_uid)
                results.append(receipt)
            except (RecordConflictError, RecordForgottenError, LogDamagedError) as refusal:
                results.append(refusal)
            except SegmentDamagedError as damage:
                self._logs.quarantine(new.tenant_uid, str(damage))
                results.append(LogDamagedError(new.tenant_uid, str(damage)))
            except KeysetError as error:
                results.append(LogDamagedError(new.tenant_uid, str(error)))
        notes = self._checkpoint_frames(checkpoints)
        frames = (
            [frame for *_, frame in made] + [frame for *_, frame in notes] + [mark.frame() for mark in marks]
        )
        if not frames:
            return results
        batch, placed = self._journal.write(frames)
        for (log, pending, _), data in zip(made, placed, strict=False):
            log.written(pending, data)
            self._unfolded_bytes += len(data)
        for log, size, note, _ in notes:
            log.checkpoint_note, log.checkpoint_size = note, size
        self._position.remember(marks)
        return [
            Receipt(result.log_id, result.index, result.leaf, batch)
            if isinstance(result, Receipt)
            else result
            for result in results
        ]

    def _checkpoint_frames(self, tenant_uids: Sequence[str]) -> list[tuple[TenantLog, int, bytes, Frame]]:
        made = []
        for tenant_uid in tenant_uids:
            try:
                log = self._logs.readable(tenant_uid)
            except LogDamagedError:
                continue
            if log is None or log.frontier.size == log.checkpoint_size:
                continue
            checkpoint = log.checkpoint()
            note = NoteSigner(log.origin, self._keys.log).sign(checkpoint.text())
            made.append((log, checkpoint.size, note, Frame(FrameKind.CHECKPOINT, log.log_id + note)))
        return made

    def dirty(self) -> list[str]:
        """Tenants whose logs have grown since their last checkpoint."""
        return sorted(self._dirty)

    def checkpointed(self, tenant_uids: Sequence[str]) -> None:
        """Take note that the checkpoints of these tenants are durable."""
        self._dirty.difference_update(tenant_uids)

    @property
    def needs_fold(self) -> bool:
        """Whether the journal holds enough to be folded."""
        return self._unfolded_bytes >= FOLD_BYTES

    def begin_fold(self) -> None:
        """Begin to move everything from the journal into segments. `fold_slice` does the work."""
        assert self._pass is None, "a fold is under way"
        self._journal.close()
        self._pass = FoldPass(self._logs)
        self._folding = _JournalEnd(
            self._journal.finished, self._journal.incarnation, *self._journal.position
        )
        self._journal.finished = []
        self._unfolded_bytes = 0

    def fold_slice(self) -> bool:
        """Do the next slice of the fold. The last one removes the journal's files. Returns whether more is left."""
        if self._pass is None:
            return False
        self._pass.slice()
        if self._pass.is_done:
            self._end_fold(self._folding)
            self._pass = None
        return self._pass is not None

    def fold(self, end_seconds: float = math.inf) -> None:
        """Move everything from the journal into segments and remove its files, or as much as time allows."""
        while self.fold_slice() and self._clock.monotonic_seconds() < end_seconds:
            pass
        if self._pass is None:
            self.begin_fold()
            while self.fold_slice() and self._clock.monotonic_seconds() < end_seconds:
                pass

    def fold_tenant(self, tenant_uid: str) -> bool:
        """Fold a slice of one log ahead of its turn. Returns whether more of it is left."""
        fold_some(self._logs, tenant_uid)
        return has_more(self._logs, tenant_uid)

    def _end_fold(self, folded: _JournalEnd) -> None:
        self._position.incarnation = folded.incarnation
        self._position.next_batch, self._position.previous = folded.next_batch, folded.previous
        self._position.removed = [path.name for path in folded.files]
        replace_file(self._root / POSITION, self._position.encode())
        for path in folded.files:
            remove_file(path)
        self._logs.close_idle(self._dirty, is_changed)

    def close(self) -> None:
        """Fold for at most `CLOSE_SECONDS` and release the directory. The next start folds the rest."""
        self.fold(self._clock.monotonic_seconds() + CLOSE_SECONDS)
        self._journal.close()
        self._directory.release()

    def _recover(self) -> None:
        wal = self._root / "wal"
        for name in self._position.removed:
            remove_file(wal / name)
        files = [(path, path.read_bytes()) for path in wal.glob("*.wal")]
        found = recover(
            files, self._keys.log.public_key(), self._position.previous, self._position.next_batch
        )
        replay = Replay(self._logs, self._recent, self._position)
        replay.run(found.frames)
        self._dirty |= replay.touched
        incarnation = max(self._position.incarnation, found.last_incarnation) + 1
        self._journal = JournalWriter(wal, incarnation, self._keys.log, found.next_batch, found.previous)
        self._journal.finished = [path for path, _ in files]
        if files:
            # A killed process leaves pages that only the kernel holds. No later batch may be durable without them.
            for path, _ in files:
                sync_file(path)
            # Fold them in slices, as always, so that no batch waits for all of them.
            self._unfolded_bytes = FOLD_BYTES
            _log.info("recovered %d frames, cut %d bytes of torn tail", len(found.frames), found.cut_bytes)
