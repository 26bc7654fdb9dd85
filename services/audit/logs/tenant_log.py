"""One log in memory: the edge of its tree, its current data key, and the entries that are not folded yet."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import rfc8785

from services.audit.keys.envelope import DataKey, RandomBytes, dek_open_entry, salted
from services.audit.keys.keyset import KeyDestroyedError, Keyset
from services.audit.logs.folded_state import FoldedState
from services.audit.proofs.entry import ENTRY_BYTES, NO_ID, Entry, EntryKind, Header, name_digest
from services.audit.proofs.merkle import Frontier, leaf_hash
from services.audit.proofs.signed_note import Checkpoint
from services.audit.storage.frames import HEAD_BYTES, PLACE_BYTES, Frame, FrameKind, entry_frame, split_entry
from services.common.errors import FailedPreconditionError, Reason

RECURRING = frozenset({EntryKind.CONFIG_VERSION, EntryKind.ADMIN_INTENT, EntryKind.ADMIN_OUTCOME})
"""Kinds whose record ids follow from their content, so that another session may append the same record much later."""
MAX_RECURRING = 1024
MAX_ENTRIES_PER_SEGMENT = 65_536
MAX_SEGMENT_BYTES = 64 << 20


class RecordConflictError(Exception):
    """A record id came again with other content, or with content that can no longer be compared."""

    def __str__(self) -> str:
        """The text for the writer."""
        return "the record id was used before with other content"


class RecordForgottenError(Exception):
    """A sequence came again that was settled before, and its record is not remembered any more."""

    def __str__(self) -> str:
        """The text for the writer."""
        return "the sequence was settled before, and its record is not remembered any more"


class LogDamagedError(FailedPreconditionError):
    """A log is quarantined: nothing is appended to it. Only the service's own log says why."""

    def __init__(self, tenant_uid: str, why: str) -> None:
        super().__init__("the audit log is damaged and quarantined", reason=Reason.LOG_DAMAGED)
        self.tenant_uid = tenant_uid
        self.why = why


@dataclass(frozen=True, slots=True)
class NewEntry:
    """An entry to append."""

    tenant_uid: str
    record_id: bytes
    kind: EntryKind
    payloads: tuple[bytes, bytes | None, bytes | None]
    """meta, prompt, answer as canonical JSON."""
    admit_record_id: bytes = NO_ID
    key_id: str = ""
    session_id: bytes = NO_ID
    """The session that appends it. Another session may append the same record again."""
    writer: str = ""

    def content_digest(self) -> bytes:
        """A digest of the content. Two entries of one record id with one digest are the same entry."""
        return _content_digest(self.kind, self.admit_record_id, name_digest(self.key_id), self.payloads)

    @property
    def size_bytes(self) -> int:
        """Bytes of content."""
        return sum(len(payload) for payload in self.payloads if payload is not None)


@dataclass(frozen=True, slots=True)
class Receipt:
    """Says where an entry stands."""

    log_id: bytes
    index: int
    leaf: bytes
    batch: int = 0


@dataclass(slots=True)
class PendingFrame:
    """An entry that is not folded yet."""

    entry: Entry
    leaf: bytes
    placed: bytes = b""
    """Place and frame, as a segment keeps them; empty until the journal has them."""

    @property
    def rest(self) -> bytes:
        """The bytes after the entry in its frame."""
        return self.placed[PLACE_BYTES + HEAD_BYTES + ENTRY_BYTES :]


class TenantLog:
    """Appends to one tree. Not thread-safe: the appender's thread owns it."""

    def __init__(
        self,
        folded: FoldedState,
        origin: str,
        keyset: Keyset,
        random_bytes: RandomBytes,
        predecessor: bytes = NO_ID,
    ) -> None:
        self.folded = folded
        self.origin = origin
        self.keyset = keyset
        self.frontier = Frontier(folded.size, folded.frontier)
        self.last_time_ns = folded.last_time_ns
        self.pending: deque[PendingFrame] = deque()
        """Entries that are not folded, in the order of their index, from `folded.size` on."""
        self.recurring = dict(folded.recurring)
        self.checkpoint_note: bytes | None = None
        self.checkpoint_size = -1
        self.folded_note: bytes | None = None
        """The checkpoint in the log's folder."""
        self._random_bytes = random_bytes
        self._predecessor = predecessor
        self._dek: DataKey | None = None
        self._counter = 0
        self._sealed_bytes = 0

    @property
    def log_id(self) -> bytes:
        """The log's id, 16 bytes."""
        return self.folded.log_id

    def append(self, new: NewEntry, now_ns: int) -> tuple[list[tuple[PendingFrame, Frame]], Receipt]:
        """Give an entry its index and seal it; opens a new data key first if one is needed.

        The caller writes the frames to the journal and then calls `written` with each of them.

        Raises:
            KeysetError: there is no key to seal with; nothing has changed.
        """
        made: list[tuple[PendingFrame, Frame]] = []
        first = self.frontier.size == 0
        key = self._dek
        is_full = self._has_sealed_enough()  # proven: bounded-data-key
        if key is None or is_full:
            key = self._dek = self.keyset.new_dek()
            self._counter = self._sealed_bytes = 0
            own = NewEntry(new.tenant_uid, key.dek_id, EntryKind.DEK_OPEN, (b"", None, None))
            opening = dek_open_entry(self._header(own, key, now_ns), key)
            frame = entry_frame(opening, self.keyset.framed(key.dek_id), FrameKind.DEK_OPEN)
            made.append((self._push(opening), frame))
        if first:
            made.append(self._seal(self._log_opened(), key, now_ns))
        made.append(self._seal(new, key, now_ns))
        last = made[-1][0]
        return made, Receipt(self.log_id, last.entry.header.index, last.leaf)

    def _has_sealed_enough(self) -> bool:
        return self._counter >= MAX_ENTRIES_PER_SEGMENT or self._sealed_bytes >= MAX_SEGMENT_BYTES

    def _seal(self, new: NewEntry, key: DataKey, now_ns: int) -> tuple[PendingFrame, Frame]:
        self._counter += 1
        header = self._header(new, key, now_ns)
        entry, ciphertext = key.seal(header, salted(new.payloads, self._random_bytes))
        self._sealed_bytes += len(ciphertext)
        return self._push(entry), entry_frame(entry, ciphertext)

    def _log_opened(self) -> NewEntry:
        """The log's first entry after its key: binds the tree to a tenant and to the log before this one."""
        tenant_uid = self.folded.tenant_uid
        meta = {
            "tenant_uid": tenant_uid,
            "predecessor": self._predecessor.hex() if any(self._predecessor) else None,
        }
        return NewEntry(
            tenant_uid,
            self.log_id,
            EntryKind.LOG_OPENED,
            (rfc8785.dumps(meta), None, None),
            self._predecessor,
            tenant_uid,
        )

    def replay(self, placed: bytes, frame: Frame) -> PendingFrame | None:
        """Take an entry from the journal; returns None when the segments have it already.

        Raises:
            LogDamagedError: entries before it are missing.
        """
        entry, rest = split_entry(frame)
        index, size = entry.header.index, self.frontier.size
        if index < size:
            return None
        if index > size:
            raise LogDamagedError(self.folded.tenant_uid, f"entries {size} to {index - 1} are missing")
        if entry.header.kind is EntryKind.DEK_OPEN:
            self.keyset.adopt(entry.header.dek_id, rest)
        pending = self._push(entry)
        self.last_time_ns = max(self.last_time_ns, entry.header.time_ns)
        self.written(pending, placed)
        return pending

    def written(self, pending: PendingFrame, placed: bytes) -> None:
        """Take note that an entry is durable in the journal."""
        pending.placed = placed
        self.pending.append(pending)
        header = pending.entry.header
        if header.kind in RECURRING:
            self.recurring[header.record_id] = header.index
            if len(self.recurring) > MAX_RECURRING:
                del self.recurring[next(iter(self.recurring))]

    def digest_of(self, entry: Entry, rest: bytes, opening: Entry) -> bytes | None:
        """`NewEntry.content_digest` of an entry of this log; None when its key was destroyed.

        Args:
            entry: the entry.
            rest: its ciphertext.
            opening: the DEK_OPEN entry of its key.

        Raises:
            EnvelopeError: the key is not the one committed to, or the entry does not open.
            KeysetError: the log has no such key.
        """
        header = entry.header
        try:
            key = self.keyset.dek(header.dek_id)
        except KeyDestroyedError:
            return None
        key.require(opening.commitments[0])
        payloads = [section.payload if section else None for section in key.open(entry, rest)]
        return _content_digest(header.kind, header.admit_record_id, header.key_digest, payloads)

    def checkpoint(self) -> Checkpoint:
        """The log's size and root as they are now."""
        return Checkpoint(self.origin, self.frontier.size, self.frontier.root())

    def _push(self, entry: Entry) -> PendingFrame:
        leaf = leaf_hash(entry.encode())
        self.frontier.push(leaf)
        return PendingFrame(entry, leaf)

    def _header(self, new: NewEntry, key: DataKey, now_ns: int) -> Header:
        self.last_time_ns = max(self.last_time_ns, now_ns)
        return Header(
            new.kind,
            self.log_id,
            self.frontier.size,
            self.last_time_ns,
            new.record_id,
            new.admit_record_id,
            name_digest(new.key_id),
            new.session_id,
            name_digest(new.writer),
            key.dek_id,
            self._counter,
        )


def _content_digest(
    kind: EntryKind, admit_record_id: bytes, key_digest: bytes, payloads: Sequence[bytes | None]
) -> bytes:
    parts = [bytes([kind]), admit_record_id, key_digest]
    parts += [payload if payload is not None else b"\xff" for payload in payloads]
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).digest()
