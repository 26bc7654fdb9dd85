"""The watch's rules, over every way in which a server may split its events into responses."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.config.etcd import history as history_module
from services.config.etcd import watch_state
from services.config.etcd.client import key_text, range_end
from services.config.etcd.follower import KeyChange
from services.config.etcd.history import History
from services.config.etcd.store import Stored
from services.config.etcd.watch_state import (
    NO_WATCH,
    Apply,
    Reconnect,
    Relist,
    Response,
    WatchState,
)
from tests.fakes.mutants import changed, without


def change(revision: int, key: str = "k") -> KeyChange:
    return KeyChange(key, Stored(b"v", revision), revision)


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


def test_a_notification_of_progress_advances():
    state = WatchState(5)
    assert state.take(Response(9)) == Apply(9, ())
    assert state.take(Response(9)) is None
    assert state.next_revision == 10


def events_after_an_answer_that_overtook_them(module):
    """Asked for progress, etcd answers with the store's revision, though the watch was not sent 6 yet."""
    state = module.WatchState(6)
    assert not isinstance(state.take(module.Response(9, watch_id=NO_WATCH)), Relist)
    verdict = state.take(module.Response(9, changes=(change(6),)))
    late = state.take(module.Response(4, watch_id=NO_WATCH))  # and it may be overtaken itself
    return getattr(verdict, "changes", ()), late


def test_an_answer_to_a_question_for_progress_is_a_sign_of_life_only():
    assert events_after_an_answer_that_overtook_them(watch_state) == ((change(6),), None)


def test_that_test_notices_progress_taken_from_an_answer():
    believing = without(watch_state, "asked-progress-is-life-only")
    assert events_after_an_answer_that_overtook_them(believing)[0] == ()


BEHIND = {
    "created": Response(500, created=True),
    "progress": Response(500),
    "events": Response(501, changes=(change(501),)),
    "cluster": Response(2000, cluster_id=8, created=True),
    "cluster, asked": Response(2000, cluster_id=8, watch_id=NO_WATCH),
}


def verdicts_of_another_history(module):
    found = {}
    for name, response in BEHIND.items():
        state = module.WatchState(1001, cluster_id=7 if response.cluster_id else 0)
        verdict = state.take(response)
        found[name] = getattr(verdict, "another_history", False)
        assert state.next_revision == 1001
    return found


def test_an_etcd_that_went_back_or_is_another_is_listed_again():
    assert verdicts_of_another_history(watch_state) == dict.fromkeys(BEHIND, True)
    same = WatchState(1001, cluster_id=7)
    assert same.take(Response(1000, cluster_id=7, created=True)) is None
    assert same.take(Response(1001, cluster_id=7, changes=(change(1001),))) == Apply(1001, (change(1001),))


def test_that_test_notices_a_watch_that_waits_for_the_old_revisions():
    waiting = changed(watch_state, "behind-is-another-history", "return False")
    assert verdicts_of_another_history(waiting) == dict.fromkeys(BEHIND, False) | {
        "cluster": True,
        "cluster, asked": True,
    }


def ended_histories(module, *answers):
    """How many histories end with answers of these clusters and revisions, each to a question asked after the last."""
    history, ended = module.History(), []
    history.on_end = lambda: ended.append(1)
    for cluster_id, revision in answers:
        history.answered(history.asking(), cluster_id, revision)
    return len(ended)


def test_answers_that_go_back_or_are_anothers_end_a_history():
    assert ended_histories(history_module, (7, 1000), (7, 1000), (7, 1001)) == 0
    assert ended_histories(history_module, (7, 1000), (7, 501), (7, 502)) == 1
    assert ended_histories(history_module, (7, 1000), (8, 2000), (8, 2001)) == 1


def test_that_test_notices_answers_that_are_taken_as_they_come():
    trusting = without(history_module, "older-answers-end-a-history")
    assert ended_histories(trusting, (7, 1000), (7, 501), (7, 502)) == 0


def test_answers_that_overtake_each_other_end_no_history():
    history = History()
    first, second = history.asking(), history.asking()
    assert history.answered(second, 7, 1001)
    assert history.answered(first, 7, 1000)
    assert (history.number, history.revision) == (1, 1001)


def test_an_answer_asked_for_in_a_history_that_ended_is_not_certain():
    history = History()
    history.answered(history.asking(), 7, 1000)
    late = history.asking()
    history.end()
    assert not history.answered(late, 7, 501)
    assert history.number == 2


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
        if resent:  # a server that replays events already seen
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
