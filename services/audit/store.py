"""All logs over one journal: commit a batch, fold, recover. Blocking and single-threaded: the appender owns it.

LOCK   wal/   wal.json   keyring/<log_id>   logs/<log_id>/{segments,state.json,checkpoint}   logs/tenants.json
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from services.audit.entry import ID_BYTES
from services.audit.file_ops import make_directory, remove_file, replace_file
from services.audit.frame import Frame, FrameKind, SessionMark, split_entry
from services.audit.journal import JournalWriter
from services.audit.keyset import Keyset
from services.audit.log import FoldedState, NewEntry, Receipt, RecordConflictError, TenantLog
from services.audit.merkle import leaf_hash
from services.audit.recovery import recover
from services.audit.root_keys import KeyProvider
from services.audit.segments import fold_log, read_entries
from services.audit.signed_note import NoteSigner
from services.audit.signing_keys import SigningKeys
from services.audit.state_directory import POSITION, StateDirectory
from services.audit.state_files import STATE_VERSION, StateFileError, read_state_file
from services.audit.tenant_logs import TenantLogs
from services.common.clock import Clock

_log = logging.getLogger(__name__)
MAX_SESSIONS = 1024
FOLD_BYTES = 32 << 20


@dataclass(slots=True)
class _Position:
    """What `wal.json` holds: where the journal stands once everything before is folded."""

    incarnation: int = 0
    next_batch: int = 1
    previous: bytes = bytes(32)
    sessions: dict[bytes, int] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)

    def encode(self) -> bytes:
        document = {
            "version": STATE_VERSION,
            "incarnation": self.incarnation,
            "next_batch": self.next_batch,
            "previous": self.previous.hex(),
            "sessions": {session.hex(): sequence for session, sequence in self.sessions.items()},
            "removed": self.removed,
        }
        return json.dumps(document, indent=1).encode()

    @classmethod
    def read(cls, path: Path) -> _Position:
        if not path.exists():
            return cls()
        document = read_state_file(path)
        return cls(
            document["incarnation"],
            document["next_batch"],
            bytes.fromhex(document["previous"]),
            {bytes.fromhex(session): sequence for session, sequence in document["sessions"].items()},
            document["removed"],
        )


class LogStore:
    """Every tenant's log of one state directory.

    Raises:
        JournalDamagedError: acknowledged entries are gone.
        KeysetError: a keyring does not open.
    """

    def __init__(
        self, directory: StateDirectory, keys: SigningKeys, provider: KeyProvider, clock: Clock
    ) -> None:
        self._directory = directory
        self._root = root = directory.root
        self._keys = keys
        self._provider = provider
        self._clock = clock
        self._logs: dict[str, TenantLog] = {}
        self._dirty: set[str] = set()
        self._unfolded_bytes = 0
        self._tenants = TenantLogs(root / "logs" / "tenants.json")
        self._position = _Position.read(root / POSITION)
        self._recover()

    @property
    def sessions(self) -> dict[bytes, int]:
        """The highest durable sequence of each writer's session."""
        return self._position.sessions

    def tenant_uids(self) -> list[str]:
        """Every tenant that has a log."""
        return self._tenants.tenant_uids()

    def log(self, tenant_uid: str, *, create: bool = False) -> TenantLog | None:
        """A tenant's log, opened when first asked for; None when it has none and `create` is false."""
        if tenant_uid in self._logs:
            return self._logs[tenant_uid]
        known = self._tenants.open_log(tenant_uid)
        if known is None and not create:
            return None
        log_id = known or os.urandom(ID_BYTES)
        ring = self._root / "keyring" / log_id.hex()
        if known is None:
            keyset = Keyset.create(ring, tenant_uid, log_id, self._provider)
            self._tenants.add(tenant_uid, log_id)
        else:
            keyset = Keyset.load(ring, self._provider)
        folder = self.folder(log_id)
        state_path = folder / "state.json"
        state = FoldedState.read(state_path) if state_path.exists() else FoldedState(tenant_uid, log_id)
        predecessor = self._tenants.predecessor(tenant_uid)
        log = TenantLog(state, origin_of(log_id), keyset, os.urandom, predecessor)
        if (folder / "checkpoint").exists():
            log.checkpoint_note = log.folded_note = (folder / "checkpoint").read_bytes()
        for entry, _ in read_entries(folder, state):
            receipt = Receipt(log_id, entry.header.index, leaf_hash(entry.encode()))
            log.remember(entry.header.record_id, b"", receipt)
        self._logs[tenant_uid] = log
        return log

    def sizes_of(self, log_ids: Sequence[str]) -> list[int]:
        """How many entries the logs of these ids, in hex, have; 0 for an id that no log has."""
        owners = [self._tenants.owner_of(log_id) for log_id in log_ids]
        logs = [self.log(owner) if owner is not None else None for owner in owners]
        return [log.frontier.size if log is not None else 0 for log in logs]

    def _log_of(self, log_id: bytes) -> TenantLog:
        owner = self._tenants.owner(log_id)
        log = self.log(owner) if owner is not None else None
        if log is None:
            raise StateFileError("tenants.json lacks a log that the journal has entries of")
        return log

    def folder(self, log_id: bytes) -> Path:
        """Where a log's files are."""
        return self._root / "logs" / log_id.hex()

    def commit(
        self, entries: Sequence[NewEntry], marks: Sequence[SessionMark], checkpoints: Sequence[str] = ()
    ) -> list[Receipt | RecordConflictError]:
        """Make entries durable; the result stands in their order."""
        now_ns = int(self._clock.wall_seconds() * 1e9)
        frames: list[Frame] = []
        owners: list[TenantLog | None] = []
        results: list[Receipt | RecordConflictError] = []
        for new in entries:
            log = self.log(new.tenant_uid, create=True)
            assert log is not None
            try:
                known = log.remembered(new)
            except RecordConflictError as conflict:
                results.append(conflict)
                continue
            if known is not None:
                results.append(known)
                continue
            made, receipt = log.append(new, now_ns)
            frames += made
            owners += [log] * len(made)
            results.append(receipt)
            self._dirty.add(new.tenant_uid)
        notes = self._checkpoint_frames(checkpoints)
        frames += [frame for _, _, _, frame in notes] + [mark.frame() for mark in marks]
        if not frames:
            return results
        batch, placed = self._journal.write(frames)
        for frame, owner, data in zip(frames, owners, placed, strict=False):
            if owner is not None:
                owner.pending.append((frame, data))
                self._unfolded_bytes += len(data)
        for log, size, note, _ in notes:
            log.checkpoint_note, log.checkpoint_size = note, size
        self._remember_sessions(marks)
        return [
            Receipt(result.log_id, result.index, result.leaf, batch)
            if isinstance(result, Receipt)
            else result
            for result in results
        ]

    def _checkpoint_frames(self, tenant_uids: Sequence[str]) -> list[tuple[TenantLog, int, bytes, Frame]]:
        made = []
        for tenant_uid in tenant_uids:
            log = self.log(tenant_uid)
            if log is None or log.frontier.size == log.checkpoint_size:
                continue
            checkpoint = log.checkpoint()
            note = NoteSigner(log.origin, self._keys.log).sign(checkpoint.text())
            made.append((log, checkpoint.size, note, Frame(FrameKind.CHECKPOINT, log.log_id + note)))
        return made

    def dirty(self) -> list[str]:
        """Tenants whose log has grown since its last checkpoint."""
        return sorted(self._dirty)

    def checkpointed(self, tenant_uids: Sequence[str]) -> None:
        """These tenants' checkpoints are durable."""
        self._dirty.difference_update(tenant_uids)

    @property
    def needs_fold(self) -> bool:
        """Whether the journal holds enough to be folded."""
        return self._unfolded_bytes >= FOLD_BYTES

    def fold(self) -> None:
        """Move everything from the journal into segments and remove the journal's files."""
        self._journal.close()
        for log in self._logs.values():
            if log.pending or log.checkpoint_note is not log.folded_note:
                make_directory(self.folder(log.log_id))
                log.folded = fold_log(self.folder(log.log_id), log, log.pending)
                log.pending, log.folded_note = [], log.checkpoint_note
        self._unfolded_bytes = 0
        done = self._journal.finished
        self._position.incarnation = self._journal.incarnation
        self._position.next_batch, self._position.previous = self._journal.position
        self._position.removed = [path.name for path in done]
        replace_file(self._root / POSITION, self._position.encode())
        for path in done:
            remove_file(path)
        self._journal.finished = []

    def close(self) -> None:
        """Fold and give up the directory."""
        self.fold()
        self._directory.release()

    def _remember_sessions(self, marks: Sequence[SessionMark]) -> None:
        sessions = self._position.sessions
        for mark in marks:
            sessions.pop(mark.session_id, None)
            sessions[mark.session_id] = mark.sequence
        while len(sessions) > MAX_SESSIONS:
            sessions.pop(next(iter(sessions)))

    def _recover(self) -> None:
        wal = self._root / "wal"
        for name in self._position.removed:
            remove_file(wal / name)
        files = [(path, path.read_bytes()) for path in wal.glob("*.wal")]
        found = recover(
            files, self._keys.log.public_key(), self._position.previous, self._position.next_batch
        )
        for placed in found.frames:
            if placed.frame.kind in (FrameKind.DATA, FrameKind.DEK_OPEN):
                entry, rest = split_entry(placed.frame)
                log = self._log_of(entry.header.log_id)
                if entry.header.index >= log.frontier.size:
                    log.replay(entry, rest)
                    log.pending.append((placed.frame, placed.place.encode() + placed.data))
                    self._dirty.add(log.folded.tenant_uid)
            elif placed.frame.kind is FrameKind.CHECKPOINT:
                log = self._log_of(placed.frame.body[:ID_BYTES])
                log.checkpoint_note = placed.frame.body[ID_BYTES:]
                log.checkpoint_size = 0
            elif placed.frame.kind is FrameKind.SESSION:
                self._remember_sessions([SessionMark.of(placed.frame)])
        incarnation = max(self._position.incarnation, found.last_incarnation) + 1
        self._journal = JournalWriter(wal, incarnation, self._keys.log, found.next_batch, found.previous)
        self._journal.finished = [path for path, _ in files]
        if files:
            _log.info("recovered %d frames, cut %d bytes of torn tail", len(found.frames), found.cut_bytes)
        self.fold()
        for log in self._logs.values():
            log.checkpoint_size = -1


def origin_of(log_id: bytes) -> str:
    """The origin line of a log's checkpoints."""
    return f"tenantry/audit/{log_id.hex()}"
