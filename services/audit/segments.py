"""A log's segments: its frames, byte for byte as the journal had them, each behind its place.

    logs/<log_id>/segments/<n>.seg = (place (20 bytes) ‖ frame)*

A segment begins with the DEK_OPEN frame of the data key that encrypts all of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from services.audit.entry import Entry, EntryFormatError
from services.audit.file_ops import append_durably, make_directory, replace_file
from services.audit.frame import PLACE_BYTES, Frame, FrameError, FrameKind, Place, decode_frame, split_entry
from services.audit.log import FoldedState, TenantLog


class SegmentDamagedError(Exception):
    """A segment does not hold what was folded into it; names file and offset."""


def segment_path(folder: Path, number: int) -> Path:
    """The path of a log's n-th segment."""
    return folder / "segments" / f"{number:08d}.seg"


def fold_log(folder: Path, log: TenantLog, pending: Sequence[tuple[Frame, bytes]]) -> FoldedState:
    """Append pending frames to the log's segments and write its keyring and state; all are durable on return.

    Safe to repeat after a crash: bytes go to the offset the state names, over whatever a torn fold left there.
    """
    make_directory(folder / "segments")
    log.keyset.save()
    old = log.folded
    # All that is not folded yet is pending, so the log's own edge is the segments' edge. Hashing every entry again
    # here would stop commits for the longest part of a fold.
    assert old.size + len(pending) == log.frontier.size
    segment, offset = old.segment, old.segment_bytes
    buffered: list[bytes] = []

    def flush() -> None:
        nonlocal offset
        if buffered:
            data = b"".join(buffered)
            append_durably(segment_path(folder, segment), data, offset)
            offset += len(data)
            buffered.clear()

    for frame, placed in pending:
        if frame.kind is FrameKind.DEK_OPEN:
            flush()
            segment, offset = segment + 1, 0
        buffered.append(placed)
    flush()
    state = FoldedState(
        old.tenant_uid,
        old.log_id,
        log.frontier.size,
        list(log.frontier.hashes),
        segment,
        offset,
        log.last_time_ns,
    )
    replace_file(folder / "state.json", state.encode())
    if log.checkpoint_note is not None and log.checkpoint_size <= state.size:
        replace_file(folder / "checkpoint", log.checkpoint_note)
    return state


def read_entries(folder: Path, state: FoldedState) -> Iterator[tuple[Entry, bytes]]:
    """Every folded entry with its ciphertext, in order.

    Raises:
        SegmentDamagedError: bytes are missing or changed.
    """
    index = 0
    for number in range(1, state.segment + 1):
        path = segment_path(folder, number)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise SegmentDamagedError(f"{path.name} is missing") from None
        if number == state.segment:
            data = data[: state.segment_bytes]
        offset = 0
        while offset < len(data) and index < state.size:
            try:
                place = Place.decode(data[offset : offset + PLACE_BYTES])
                frame = decode_frame(data, offset + PLACE_BYTES, place)
                entry, ciphertext = split_entry(frame)
            except (FrameError, EntryFormatError, ValueError):
                raise SegmentDamagedError(f"{path.name} is damaged at byte {offset}") from None
            if entry.header.index != index or entry.header.log_id != state.log_id:
                raise SegmentDamagedError(f"{path.name} holds another entry at byte {offset}")
            yield entry, ciphertext
            index += 1
            offset += PLACE_BYTES + frame.size_bytes
    if index != state.size:
        raise SegmentDamagedError(f"{index} entries where {state.size} were folded")
