"""One tenant's log in memory: its tree's edge, its current data key, and the record ids it remembers."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

import rfc8785

from services.audit.entry import DIGEST_BYTES, NO_ID, Entry, EntryKind, Header, name_digest
from services.audit.envelope import DataKey, RandomBytes, dek_open_entry, salted
from services.audit.frame import Frame, FrameKind, entry_frame
from services.audit.keyset import Keyset
from services.audit.merkle import Frontier, leaf_hash
from services.audit.signed_note import Checkpoint
from services.audit.state_files import STATE_VERSION, read_state_file

REMEMBERED_RECORDS = 65_536
MAX_ENTRIES_PER_SEGMENT = 65_536
MAX_SEGMENT_BYTES = 64 << 20


class RecordConflictError(Exception):
    """A record id came again with other content."""


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
    """The session that appends it; another one may append the same record again."""
    writer: str = ""

    def content_digest(self) -> bytes:
        """What makes two entries of one record id the same."""
        parts = [bytes([self.kind]), self.admit_record_id, self.key_id.encode()]
        parts += [payload if payload is not None else b"\xff" for payload in self.payloads]
        return hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).digest()

    @property
    def size_bytes(self) -> int:
        """Bytes of content."""
        return sum(len(payload) for payload in self.payloads if payload is not None)


@dataclass(frozen=True, slots=True)
class Receipt:
    """An entry's place."""

    log_id: bytes
    index: int
    leaf: bytes
    batch: int = 0


@dataclass(slots=True)
class FoldedState:
    """What `logs/<log_id>/state.json` holds: the log as its segments show it."""

    tenant_uid: str
    log_id: bytes
    size: int = 0
    frontier: list[bytes] = field(default_factory=list)
    segment: int = 0
    segment_bytes: int = 0
    last_time_ns: int = 0

    def encode(self) -> bytes:
        """The file's bytes."""
        document = {
            "version": STATE_VERSION,
            "tenant_uid": self.tenant_uid,
            "log_id": self.log_id.hex(),
            "size": self.size,
            "frontier": [item.hex() for item in self.frontier],
            "segment": self.segment,
            "segment_bytes": self.segment_bytes,
            "last_time_ns": self.last_time_ns,
        }
        return json.dumps(document, indent=1).encode()

    @classmethod
    def read(cls, path: Path) -> FoldedState:
        """Parse the file; ValueError or KeyError when it is damaged or of an unknown version."""
        document = read_state_file(path)
        return cls(
            document["tenant_uid"],
            bytes.fromhex(document["log_id"]),
            document["size"],
            [bytes.fromhex(item) for item in document["frontier"]],
            document["segment"],
            document["segment_bytes"],
            document["last_time_ns"],
        )


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
        self.pending: list[tuple[Frame, bytes]] = []
        """Frames not folded yet, each with its bytes as segments keep them."""
        self.checkpoint_note: bytes | None = None
        self.checkpoint_size = -1
        self.folded_note: bytes | None = None
        """The checkpoint that stands in the log's folder."""
        self._random_bytes = random_bytes
        self._predecessor = predecessor
        self._dek: DataKey | None = None
        self._counter = 0
        self._sealed_bytes = 0
        self._records: OrderedDict[bytes, tuple[bytes, Receipt]] = OrderedDict()

    @property
    def log_id(self) -> bytes:
        """16 bytes."""
        return self.folded.log_id

    def remembered(self, new: NewEntry) -> Receipt | None:
        """The receipt of a record that is already in the log.

        Raises:
            RecordConflictError: the record id is there with other content.
        """
        known = self._records.get(new.record_id)
        if known is None:
            return None
        digest, receipt = known
        if digest and digest != new.content_digest():
            raise RecordConflictError
        return receipt

    def append(self, new: NewEntry, now_ns: int) -> tuple[list[Frame], Receipt]:
        """Give an entry its index and seal it; opens a data key first where one is needed."""
        frames: list[Frame] = []
        first = self.frontier.size == 0
        key = self._dek
        full = self._counter >= MAX_ENTRIES_PER_SEGMENT or self._sealed_bytes >= MAX_SEGMENT_BYTES
        if key is None or full:
            key = self._dek = self.keyset.new_dek()
            self._counter = self._sealed_bytes = 0
            own = NewEntry(new.tenant_uid, key.dek_id, EntryKind.DEK_OPEN, (b"", None, None))
            opening = dek_open_entry(self._header(own, key, now_ns), key)
            self._push(opening)
            frames.append(entry_frame(opening, self.keyset.framed(key.dek_id), FrameKind.DEK_OPEN))
        if first:
            frames.append(self._seal(self._log_opened(), key, now_ns)[0])
        frame, receipt = self._seal(new, key, now_ns)
        self.remember(new.record_id, new.content_digest(), receipt)
        return [*frames, frame], receipt

    def _seal(self, new: NewEntry, key: DataKey, now_ns: int) -> tuple[Frame, Receipt]:
        self._counter += 1
        header = self._header(new, key, now_ns)
        entry, ciphertext = key.seal(header, salted(new.payloads, self._random_bytes))
        self._sealed_bytes += len(ciphertext)
        return entry_frame(entry, ciphertext), Receipt(self.log_id, header.index, self._push(entry))

    def _log_opened(self) -> NewEntry:
        """A log's first own entry: whose it is, and which log it continues, in its tree before anything else."""
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

    def replay(self, entry: Entry, rest: bytes) -> None:
        """Take an entry that the journal holds and the segments do not yet; `rest` is what follows it in its frame."""
        if entry.header.kind is EntryKind.DEK_OPEN:
            self.keyset.adopt(entry.header.dek_id, rest)
        leaf = self._push(entry)
        self.last_time_ns = max(self.last_time_ns, entry.header.time_ns)
        self.remember(entry.header.record_id, b"", Receipt(self.log_id, entry.header.index, leaf))

    def remember(self, record_id: bytes, digest: bytes, receipt: Receipt) -> None:
        """Keep a record id; the oldest is forgotten when there are too many.

        Content is compared only while the service that wrote it runs: a digest of plain text must not be kept on
        disk, where it would let a guess be checked after the key is destroyed.
        """
        self._records[record_id] = (digest, receipt)
        if len(self._records) > REMEMBERED_RECORDS:
            self._records.popitem(last=False)

    def checkpoint(self) -> Checkpoint:
        """Size and root as they are now."""
        return Checkpoint(self.origin, self.frontier.size, self.frontier.root())

    def _push(self, entry: Entry) -> bytes:
        leaf = leaf_hash(entry.encode())
        assert len(leaf) == DIGEST_BYTES
        self.frontier.push(leaf)
        return leaf

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
