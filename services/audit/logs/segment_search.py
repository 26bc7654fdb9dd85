"""Finds a few entries of a log in its segments without reading all of it.

The first entry of a segment has a fixed place, so the right segment is found by bisection. Within it only the heads of
frames are read. A frame that is returned is checked like any other.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Collection, Iterator
from pathlib import Path

from services.audit.logs.folded_state import FoldedState
from services.audit.logs.segments import SegmentDamagedError, segment_path
from services.audit.proofs.entry import Entry, EntryFormatError
from services.audit.storage.frames import (
    HEAD_BYTES,
    MAGIC,
    PLACE_BYTES,
    FrameError,
    Place,
    decode_frame,
    split_entry,
)

SEARCHED_ENTRIES = 65_536
"""How many of a log's newest entries are searched for a record, in whole segments."""
_HEAD = struct.Struct(f">{PLACE_BYTES}x4s4xI4x2x16sQ8x16s")
"""Of a placed frame: magic and body length; of its entry: log_id, index and record_id."""

FoundEntry = tuple[Entry, bytes]
"""An entry and the bytes after it in its frame."""


class _Segment:
    """One segment, mapped into memory: only the pages that are used are read."""

    def __init__(self, folder: Path, state: FoldedState, number: int) -> None:
        self.path = segment_path(folder, number)
        self._log_id = state.log_id
        try:
            with self.path.open("rb") as file:
                self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError):
            raise SegmentDamagedError(f"{self.path.name} is missing, empty or cannot be read") from None
        self._end = state.segment_bytes if number == state.segment else len(self.data)
        if self._end > len(self.data):
            raise SegmentDamagedError(f"{self.path.name} ends at byte {len(self.data)}, not {self._end}")

    def heads(self) -> Iterator[tuple[int, int, bytes]]:
        """Iterate over offset, index and record id of every entry."""
        offset = 0
        while offset < self._end:
            try:
                magic, length, log_id, index, record_id = _HEAD.unpack_from(self.data, offset)
            except struct.error:
                magic, length, log_id, index, record_id = b"", 0, b"", 0, b""
            if magic != MAGIC or log_id != self._log_id:
                raise SegmentDamagedError(f"{self.path.name} is damaged at byte {offset}")
            yield offset, index, record_id
            offset += PLACE_BYTES + HEAD_BYTES + length

    def first_index(self) -> int:
        """The index of its first entry."""
        return next((index for _, index, _ in self.heads()), 0)

    def entry_at(self, offset: int) -> FoundEntry:
        """The entry at an offset. Checks its frame."""
        place = Place.decode(self.data[offset : offset + PLACE_BYTES])
        start = offset + PLACE_BYTES
        length = _HEAD.unpack_from(self.data, offset)[1]
        try:
            return split_entry(decode_frame(self.data[start : start + HEAD_BYTES + length], 0, place))
        except (FrameError, EntryFormatError):
            raise SegmentDamagedError(f"{self.path.name} is damaged at byte {offset}") from None


def find_index(folder: Path, state: FoldedState, index: int) -> FoundEntry | None:
    """Find a folded entry by its index; None when the log has no such entry.

    Raises:
        SegmentDamagedError: bytes on the way are missing or changed.
    """
    if not 0 <= index < state.size:
        return None
    low, high = 1, state.segment
    while low < high:
        middle = (low + high + 1) // 2
        if _Segment(folder, state, middle).first_index() <= index:
            low = middle
        else:
            high = middle - 1
    segment = _Segment(folder, state, low)
    for offset, found, _ in segment.heads():
        if found == index:
            return segment.entry_at(offset)
    raise SegmentDamagedError(f"{segment.path.name} does not hold entry {index}")


def find_records(folder: Path, state: FoldedState, wanted: Collection[bytes]) -> dict[bytes, FoundEntry]:
    """Find entries by record id, among the newest of a log.

    Raises:
        SegmentDamagedError: bytes on the way are missing or changed.
    """
    found: dict[bytes, FoundEntry] = {}
    looked_at = 0
    for number in range(state.segment, 0, -1):
        if looked_at >= SEARCHED_ENTRIES or len(found) == len(wanted):
            break
        segment = _Segment(folder, state, number)
        for offset, _, record_id in segment.heads():
            looked_at += 1
            if record_id in wanted:
                found[record_id] = segment.entry_at(offset)
    return found
