"""The segments of a log: its frames, byte for byte as in the journal, each after its place.

    logs/<log_id>/segments/<n>.seg = (place (20 bytes) ‖ frame)*

A segment begins with the DEK_OPEN frame of the data key that encrypts the whole segment.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from services.audit.logs.folded_state import STATE, FoldedState
from services.audit.logs.tenant_log import TenantLog
from services.audit.proofs.entry import Entry, EntryFormatError, EntryKind
from services.audit.proofs.merkle import Frontier
from services.audit.storage.disk import write_at
from services.audit.storage.frames import PLACE_BYTES, FrameError, Place, decode_frame, split_entry
from services.common.durable_files import replace_files


class SegmentDamagedError(Exception):
    """A segment does not hold the bytes that were folded into it. The text names file and offset."""


def segment_path(folder: Path, number: int) -> Path:
    """The path of a log's n-th segment."""
    return folder / "segments" / f"{number:08d}.seg"


def check_end(folder: Path, state: FoldedState) -> None:
    """Check that the last segment is as long as its log's state says. Does not read it.

    Raises:
        SegmentDamagedError: it is missing or was cut.
    """
    if state.segment == 0:
        return
    path = segment_path(folder, state.segment)
    size = path.stat().st_size if path.exists() else 0
    if size < state.segment_bytes:
        raise SegmentDamagedError(f"{path.name} ends at byte {size}, not {state.segment_bytes}")


def fold_log(folder: Path, log: TenantLog, limit_bytes: int) -> int:
    """Move the oldest pending entries into the log's segments and write its state; both are durable on return.

    The log's keyring has to be saved before. The fold can be repeated after a crash: bytes go to the offset that the
    state names, over anything a torn fold left there.

    Args:
        folder: the log's folder.
        log: the log.
        limit_bytes: about how many bytes to move at most; at least one entry is moved.

    Returns:
        How many bytes were moved.

    Raises:
        SegmentDamagedError: the last segment is missing or was cut.
    """
    old = log.folded
    check_end(folder, old)
    frontier = Frontier(old.size, old.frontier)
    segment, offset, last_time_ns = old.segment, old.segment_bytes, old.last_time_ns
    buffered: list[bytes] = []
    moved = count = 0

    def flush() -> None:
        nonlocal offset
        if buffered:
            data = b"".join(buffered)
            write_at(segment_path(folder, segment), data, offset)
            offset += len(data)
            buffered.clear()

    for pending in log.pending:
        if moved and moved + len(pending.placed) > limit_bytes:
            break
        if pending.entry.header.kind is EntryKind.DEK_OPEN:
            flush()
            segment, offset = segment + 1, 0
        buffered.append(pending.placed)
        frontier.push(pending.leaf)
        last_time_ns = pending.entry.header.time_ns
        moved += len(pending.placed)
        count += 1
    flush()
    recurring = {record_id: index for record_id, index in log.recurring.items() if index < frontier.size}
    state = FoldedState(
        old.tenant_uid, old.log_id, frontier.size, frontier.hashes, segment, offset, last_time_ns, recurring
    )
    files = {folder / STATE: state.encode()}
    note = log.checkpoint_note
    # A checkpoint that covers entries which are still pending waits for them.
    if note is not None and note is not log.folded_note and count == len(log.pending):
        files[folder / "checkpoint"] = note
        log.folded_note = note
    replace_files(files)
    log.folded = state
    for _ in range(count):
        log.pending.popleft()
    return moved


def read_entries(folder: Path, state: FoldedState) -> Iterator[tuple[Entry, bytes]]:
    """Iterate over every folded entry with its ciphertext, in order.

    Raises:
        SegmentDamagedError: bytes are missing or changed.
    """
    index = 0
    for number in range(1, state.segment + 1):
        path = segment_path(folder, number)
        try:
            data = path.read_bytes()
        except OSError:
            raise SegmentDamagedError(f"{path.name} is missing or cannot be read") from None
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
            is_moved = entry.header.index != index  # proven: segment-order
            is_foreign = entry.header.log_id != state.log_id  # proven: segment-of-this-log
            if is_moved or is_foreign:
                raise SegmentDamagedError(f"{path.name} holds another entry at byte {offset}")
            yield entry, ciphertext
            index += 1
            offset += PLACE_BYTES + frame.size_bytes
    if index != state.size:
        raise SegmentDamagedError(f"{index} entries where {state.size} were folded")
