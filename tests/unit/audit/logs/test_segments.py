"""Whole frames in the wrong place of a segment are damage."""

from __future__ import annotations

import pytest

from services.audit.logs import segments
from services.audit.logs.segments import SegmentDamagedError, segment_path
from tests.fakes.mutants import changed
from tests.unit.audit.audit_state import new_entry, open_store


def framed(path) -> list[bytes]:
    """What stands in a segment, frame by frame, each with its place."""
    data, found = path.read_bytes(), []
    while data:
        length = 20 + 16 + int.from_bytes(data[28:32], "big")
        found.append(data[:length])
        data = data[length:]
    return found


def spliced(tmp_path, how):
    """Tenant a's segment with two frames changed about, or with one of tenant b's in its own one's place."""
    store = open_store(tmp_path)
    store.commit([new_entry(tenant, f"{tenant}{number}") for number in range(3) for tenant in "ab"], [])
    store.fold()
    mine, others = (segment_path(store.folder(store.log(tenant).log_id), 1) for tenant in "ab")
    frames = framed(mine)
    if how == "order":
        frames[2], frames[3] = frames[3], frames[2]
    else:
        frames[3] = framed(others)[3]
    assert len(b"".join(frames)) == mine.stat().st_size
    mine.write_bytes(b"".join(frames))
    return store


SPLICES = {
    "order": ("segment-order", "is_moved = False"),
    "log": ("segment-of-this-log", "is_foreign = False"),
}


def read_segments(module, store) -> list:
    log = store.log("a")
    return list(module.read_entries(store.folder(log.log_id), log.folded))


@pytest.mark.parametrize("how", SPLICES)
def test_whole_frames_of_another_place_or_log_are_damage(tmp_path, how):
    store = spliced(tmp_path, how)
    with pytest.raises(SegmentDamagedError, match="holds another entry"):
        read_segments(segments, store)
    store._directory.release()


@pytest.mark.parametrize("how", SPLICES)
def test_mutant_that_does_not_ask_takes_them(tmp_path, how):
    store = spliced(tmp_path, how)
    believing = changed(segments, *SPLICES[how])
    assert len(read_segments(believing, store)) == 5
    store._directory.release()
