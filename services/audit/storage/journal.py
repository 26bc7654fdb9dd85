"""The shared commit journal: every tenant's frames of a batch, one signed COMMIT, one fdatasync.

Files `wal/<incarnation>-<n>.wal` are preallocated and never opened again for writing: each start is a new incarnation.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.audit.proofs.merkle import leaf_hash, root_of
from services.audit.storage.disk import create_preallocated, sync_data
from services.audit.storage.frames import HEAD_BYTES, MAX_BODY_BYTES, Commit, Frame, FrameKind, Place
from services.common.durable_files import write_all

FILE_BYTES = 64 << 20
COMMIT_FRAME_BYTES = HEAD_BYTES + 84 + 64


def file_name(incarnation: int, file: int) -> str:
    """The name of a journal file."""
    return f"{incarnation:016x}-{file:08x}.wal"


def parse_file_name(name: str) -> tuple[int, int]:
    """Incarnation and number in the name of a journal file.

    Raises:
        ValueError: another name.
    """
    incarnation, _, file = name.removesuffix(".wal").partition("-")
    return int(incarnation, 16), int(file, 16)


class JournalWriter:
    """Appends batches. Blocking; one thread calls it, with one batch at a time."""

    def __init__(
        self, folder: Path, incarnation: int, signing_key: Ed25519PrivateKey, next_batch: int, previous: bytes
    ) -> None:
        self._folder = folder
        self.incarnation = incarnation
        self._signing_key = signing_key
        self._next_batch = next_batch
        self._previous = previous
        self._file = -1
        self._offset = 0
        self._descriptor: int | None = None
        self.finished: list[Path] = []
        """Files that are complete and can be folded and removed."""

    def write(self, frames: Sequence[Frame]) -> tuple[int, list[bytes]]:
        """Write frames and their COMMIT durably.

        Returns:
            The batch's number, and each frame prefixed by its place, as segments keep it.
        """
        size_bytes = sum(frame.size_bytes for frame in frames) + COMMIT_FRAME_BYTES
        if size_bytes > FILE_BYTES - MAX_BODY_BYTES:
            raise ValueError("a batch has to fit a journal file")
        if self._descriptor is None or self._offset + size_bytes > FILE_BYTES:
            self.roll()
        assert self._descriptor is not None
        placed: list[bytes] = []
        written: list[bytes] = []
        offset = self._offset
        for frame in frames:
            place = Place(self.incarnation, self._file, offset)
            data = frame.encode(place)
            written.append(data)
            placed.append(place.encode() + data)
            offset += len(data)
        commit = Commit(
            self._next_batch,
            len(frames),
            offset - self._offset,
            self._previous,
            root_of([leaf_hash(data) for data in written]),
        )
        encoded = commit.encode()
        end = Frame(FrameKind.COMMIT, encoded + self._signing_key.sign(commit.message()))
        written.append(end.encode(Place(self.incarnation, self._file, offset)))
        write_all(self._descriptor, b"".join(written))
        sync_data(self._descriptor)
        self._offset = offset + end.size_bytes
        self._previous = hashlib.sha256(encoded).digest()
        self._next_batch += 1
        return commit.batch, placed

    @property
    def position(self) -> tuple[int, bytes]:
        """The number of the next batch, and the hash it will name as that of its predecessor."""
        return self._next_batch, self._previous

    def roll(self) -> None:
        """Begin the next file."""
        self.close()
        self._file += 1
        path = self._folder / file_name(self.incarnation, self._file)
        self._descriptor = create_preallocated(path, FILE_BYTES)
        self._offset = 0

    def close(self) -> None:
        """Stop writing to the current file and count it as finished."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            self.finished.append(self._folder / file_name(self.incarnation, self._file))
