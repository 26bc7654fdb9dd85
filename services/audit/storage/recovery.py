"""Reads the journal back after a stop of any kind.

A batch is one write, and the disk may keep its pages in any order: the COMMIT can be there without its frames. So
damage in the last batch is a torn tail and is cut off, with or without a COMMIT after it. If that batch was
acknowledged after all, a writer holds a receipt for it, and the check of receipts finds the loss.

Damage before the COMMIT of a later batch is no torn tail, because a batch is written only after the fdatasync of the
one before. The same holds for whole bytes that do not fit their COMMIT. Acknowledged entries are lost then, it is
unknown of which tenants, and the service refuses to start.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from services.audit.proofs.merkle import leaf_hash, root_of
from services.audit.storage.frames import (
    HEAD_BYTES,
    MAGIC,
    Commit,
    Frame,
    FrameError,
    FrameKind,
    Place,
    decode_frame,
)
from services.audit.storage.journal import COMMIT_FRAME_BYTES, parse_file_name

_NO_COMMIT = bytes(32)


class JournalDamagedError(Exception):
    """Bytes of acknowledged batches changed, or another key signed them. Restore from the volume's copy."""


@dataclass(frozen=True, slots=True)
class PlacedFrame:
    """A frame that a COMMIT covers."""

    frame: Frame
    place: Place
    data: bytes
    """The frame's encoded bytes."""


@dataclass(slots=True)
class Recovered:
    """The content of the journal."""

    frames: list[PlacedFrame] = field(default_factory=list)
    next_batch: int = 1
    previous: bytes = _NO_COMMIT
    last_incarnation: int = 0
    cut_bytes: int = 0
    """How many bytes of torn tails were dropped."""


def recover(
    files: list[tuple[Path, bytes]], public_key: Ed25519PublicKey, previous: bytes, next_batch: int
) -> Recovered:
    """Read journal files in the order they were written.

    Args:
        files: path and content of each file.
        public_key: of the key that signs COMMITs.
        previous: hash of the last COMMIT whose frames are folded; zeros for none.
        next_batch: number of the first batch that is expected.

    Raises:
        JournalDamagedError: damage before an acknowledged COMMIT. The text names file and offset.
    """
    found = Recovered(next_batch=next_batch, previous=previous)
    for path, data in sorted(files, key=lambda item: parse_file_name(item[0].name)):
        end = _read_file(path, data, public_key, found)
        if _later_commit(data, end, public_key, found.next_batch):
            raise JournalDamagedError(f"{path.name} is damaged at byte {end}, below an acknowledged batch")
        found.cut_bytes += len(data[end:].rstrip(b"\x00"))
    return found


def _read_file(path: Path, data: bytes, public_key: Ed25519PublicKey, found: Recovered) -> int:
    incarnation, file = parse_file_name(path.name)
    found.last_incarnation = max(found.last_incarnation, incarnation)
    offset = committed = 0
    batch: list[PlacedFrame] = []
    while offset < len(data):
        place = Place(incarnation, file, offset)
        try:
            frame = decode_frame(data, offset, place)
            raw = data[offset : offset + frame.size_bytes]
            offset += frame.size_bytes
            if frame.kind is not FrameKind.COMMIT:
                batch.append(PlacedFrame(frame, place, raw))
                continue
            commit, signature = Commit.of(frame)
        except FrameError:
            break
        # The checksum fits, so these bytes are no torn write.
        if not _signed(commit, signature, public_key):  # proven: commit-signature
            raise JournalDamagedError(f"{path.name}: another key signed the COMMIT at byte {place.offset}")
        if commit != _expected(batch, place.offset - committed, found):
            raise JournalDamagedError(f"{path.name}: the COMMIT at byte {place.offset} is of another batch")
        found.frames += batch
        found.next_batch = commit.batch + 1
        found.previous = hashlib.sha256(commit.encode()).digest()
        batch, committed = [], offset
    return committed


def _expected(batch: list[PlacedFrame], size_bytes: int, found: Recovered) -> Commit:
    root = root_of([leaf_hash(placed.data) for placed in batch])
    return Commit(found.next_batch, len(batch), size_bytes, found.previous, root)


def _signed(commit: Commit, signature: bytes, public_key: Ed25519PublicKey) -> bool:
    try:
        public_key.verify(signature, commit.message())
    except InvalidSignature:
        return False
    return True


def _later_commit(data: bytes, start: int, public_key: Ed25519PublicKey, batch: int) -> bool:
    """Whether a signed COMMIT of a batch after `batch` stands after `start`, which proves that `batch` was synced."""
    for offset in _magics(data, start):
        body = data[offset + HEAD_BYTES : offset + COMMIT_FRAME_BYTES]
        try:
            commit, signature = Commit.of(Frame(FrameKind.COMMIT, body))
        except FrameError:
            continue
        if commit.batch > batch and _signed(commit, signature, public_key):
            return True
    return False


def _magics(data: bytes, start: int) -> Iterator[int]:
    marker = MAGIC + bytes([FrameKind.COMMIT])
    offset = data.find(marker, start)
    while offset >= 0:
        yield offset
        offset = data.find(marker, offset + 1)
