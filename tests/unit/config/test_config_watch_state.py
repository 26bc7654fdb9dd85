"""The watch's rules, over any way a server may cut its events into responses."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.config.etcd.client import key_text, range_end
from services.config.etcd.watch_state import Apply, Change, Reconnect, Relist, Response, WatchState
from services.config.store import Stored


def change(revision: int, key: str = "k") -> Change:
    return Change(key, Stored(b"v", revision), revision)


def test_created_never_advances():
    state = WatchState(5)
    assert state.take(Response(revision=90, created=True)) is None
    assert state.next_revision == 5


def test_refused_and_compacted_watches_are_seen_behind_created():
    assert isinstance(WatchState(5).take(Response(9, created=True, canceled=True)), Reconnect)
    assert isinstance(
        WatchState(5).take(Response(9, created=True, canceled=True, compact_revision=7)), Relist
    )


def test_advance_is_to_the_last_event_not_the_header():
    state = WatchState(5)
    assert state.take(Response(50, changes=(change(6),))) == Apply(6, (change(6),))
    assert state.next_revision == 7


def test_progress_advances_and_old_progress_does_not():
    state = WatchState(5)
    assert state.take(Response(9)) == Apply(9, ())
    assert state.take(Response(8)) is None
    assert state.next_revision == 10


@given(data=st.data())
def test_whole_revisions_once_and_in_order_over_cuts_and_fragments(data):
    sizes = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=12))
    history = [
        change(revision, f"k{n}") for revision, size in enumerate(sizes, start=10) for n in range(size)
    ]
    state, applied = WatchState(10), []
    while state.next_revision < 10 + len(sizes):
        state.connected()
        pending = [item for item in history if item.mod_revision >= state.next_revision]
        resent = data.draw(st.booleans())
        if resent:  # a server that replays what was seen already
            pending = history
        budget = data.draw(st.integers(1, 6))
        while pending and budget:
            budget -= 1
            revision = pending[0].mod_revision
            whole = [item for item in pending if item.mod_revision == revision]
            if len(whole) > 1 and data.draw(st.booleans()):
                cut = data.draw(st.integers(1, len(whole) - 1))
                assert state.take(Response(99, fragment=True, changes=tuple(whole[:cut]))) is None
                if not budget:
                    break  # the stream is cut between two fragments
                whole = whole[cut:]
            verdict = state.take(Response(99, changes=tuple(whole)))
            if isinstance(verdict, Apply):
                applied += verdict.changes
            pending = [item for item in pending if item.mod_revision > revision]
    assert applied == history


def test_any_bytes_make_a_key():
    assert key_text(b"/a\xff") == "/a\\xff"


def test_range_end():
    assert range_end(b"/a/") == b"/a0"
    assert range_end(b"a\xff") == b"b"
    assert range_end(b"\xff") == b"\x00"
