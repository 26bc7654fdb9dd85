"""Frames: the form of entries in the journal and, byte for byte, in the segments of logs.

    frame = magic "TNF1" ‖ kind u8 ‖ 3 zero bytes ‖ body length u32 ‖ CRC32C u32 ‖ body

The CRC is seeded with the frame's place (incarnation, file, offset), so that a frame copied to another place of a
journal is not taken for one written there. The CRC finds torn writes; the signed COMMIT finds forgery.
"""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass
from enum import IntEnum

import google_crc32c

from services.audit.proofs.entry import ENTRY_BYTES, ID_BYTES, Entry

MAGIC = b"TNF1"
_HEAD = struct.Struct(">4sB3xII")
HEAD_BYTES = _HEAD.size
MAX_BODY_BYTES = 8 << 20
_PLACE = struct.Struct(">QIQ")
PLACE_BYTES = _PLACE.size


class FrameKind(IntEnum):
    """The kind of a frame's body."""

    DATA = 1
    DEK_OPEN = 2
    CHECKPOINT = 3
    SESSION = 4
    COMMIT = 5


class FrameError(ValueError):
    """The bytes at a place are not a frame that was written there."""


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a frame."""

    incarnation: int
    """Counts the service's starts."""
    file: int
    """Counts the journal files of an incarnation."""
    offset: int
    """Bytes from the start of the file."""

    def encode(self) -> bytes:
        """The place as 20 bytes."""
        return _PLACE.pack(self.incarnation, self.file, self.offset)

    @classmethod
    def decode(cls, data: bytes) -> Place:
        """Parse 20 bytes.

        Raises:
            ValueError: another length.
        """
        if len(data) != PLACE_BYTES:
            raise ValueError("a place has 20 bytes")
        return cls(*_PLACE.unpack(data))


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame."""

    kind: FrameKind
    body: bytes

    @property
    def size_bytes(self) -> int:
        """The length of the encoded frame."""
        return HEAD_BYTES + len(self.body)

    def encode(self, place: Place) -> bytes:
        """Encode the frame for a place."""
        return _HEAD.pack(MAGIC, self.kind, len(self.body), _checksum(self.body, place)) + self.body


def _checksum(body: bytes, place: Place) -> int:
    return int(google_crc32c.extend(google_crc32c.value(place.encode()), body))


def decode_frame(data: bytes | memoryview, start: int, place: Place) -> Frame:
    """Parse the frame that begins at `start`.

    Raises:
        FrameError: there is no whole frame.
    """
    if len(data) - start < HEAD_BYTES:
        raise FrameError("too short for a frame")
    magic, kind, length, checksum = _HEAD.unpack_from(data, start)
    if _HEAD.pack(magic, kind, length, checksum) != data[start : start + HEAD_BYTES]:
        raise FrameError("padding that is not zero")
    if magic != MAGIC or length > MAX_BODY_BYTES or len(data) - start - HEAD_BYTES < length:
        raise FrameError("not a frame")
    body = bytes(data[start + HEAD_BYTES : start + HEAD_BYTES + length])
    if _checksum(body, place) != checksum:
        raise FrameError("the checksum is another")
    try:
        return Frame(FrameKind(kind), body)
    except ValueError:
        raise FrameError("an unknown kind of frame") from None


def entry_frame(entry: Entry, rest: bytes, kind: FrameKind = FrameKind.DATA) -> Frame:
    """The frame of an entry: DATA with its ciphertext, or DEK_OPEN with the wrapped key."""
    return Frame(kind, entry.encode() + rest)


def split_entry(frame: Frame) -> tuple[Entry, bytes]:
    """The entry of a DATA or DEK_OPEN frame, and the bytes after it: the ciphertext, or the wrapped key.

    Raises:
        EntryFormatError: the body holds no entry.
    """
    return Entry.decode(frame.body[:ENTRY_BYTES]), frame.body[ENTRY_BYTES:]


@dataclass(frozen=True, slots=True)
class SessionMark:
    """The settled sequences of a writer's session."""

    session_id: bytes
    sequence: int
    """Every sequence up to this one is settled."""
    ranges: tuple[tuple[int, int], ...] = ()
    """The settled ranges after `sequence`: first and last of each, in order."""

    def frame(self) -> Frame:
        """Encode as a SESSION frame."""
        numbers = (self.sequence, *itertools.chain.from_iterable(self.ranges))
        return Frame(FrameKind.SESSION, self.session_id + struct.pack(f">{len(numbers)}Q", *numbers))

    @classmethod
    def of(cls, frame: Frame) -> SessionMark:
        """Parse a SESSION frame.

        Raises:
            FrameError: the body has another length.
        """
        count, rest = divmod(len(frame.body) - ID_BYTES, 8)
        if rest or count < 1 or not count % 2:
            raise FrameError("a SESSION of another length")
        sequence, *ends = struct.unpack_from(f">{count}Q", frame.body, ID_BYTES)
        return cls(frame.body[:ID_BYTES], sequence, tuple(zip(ends[::2], ends[1::2], strict=True)))


_COMMIT = struct.Struct(">QIQ32s32s")
SIGNATURE_BYTES = 64
_COMMIT_DOMAIN = b"tenantry/audit/commit/v1\n"


@dataclass(frozen=True, slots=True)
class Commit:
    """Ends a batch. The frames before it are whole."""

    batch: int
    """Number of the batch, counted over all incarnations."""
    frames: int
    size_bytes: int
    previous: bytes
    """SHA-256 of the previous COMMIT as `encode` gives it; zeros before the first."""
    root: bytes
    """RFC 6962 root over the batch's frames, in order."""

    def encode(self) -> bytes:
        """The body without the signature."""
        return _COMMIT.pack(self.batch, self.frames, self.size_bytes, self.previous, self.root)

    def message(self) -> bytes:
        """The bytes that are signed. The key signs checkpoints too; the prefix keeps the two apart."""
        return _COMMIT_DOMAIN + self.encode()

    @classmethod
    def of(cls, frame: Frame) -> tuple[Commit, bytes]:
        """Parse a COMMIT frame into the commit and its signature.

        Raises:
            FrameError: the body has another length.
        """
        if len(frame.body) != _COMMIT.size + SIGNATURE_BYTES:
            raise FrameError("a COMMIT of another length")
        return cls(*_COMMIT.unpack(frame.body[: _COMMIT.size])), frame.body[_COMMIT.size :]
