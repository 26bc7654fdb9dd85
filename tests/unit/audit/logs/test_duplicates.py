"""A record that is sent again is one entry at any time, and other content under its id is refused."""

from __future__ import annotations

import pytest

from services.audit.logs.duplicates import DuplicateCheck
from services.audit.logs.recent_records import RecentRecords
from services.audit.logs.segment_search import find_records
from services.audit.logs.tenant_log import LogDamagedError, Receipt, RecordConflictError, RecordForgottenError
from services.audit.proofs.entry import EntryKind
from tests.unit.audit.audit_state import abandon, entries_of, new_entry, open_store

RECORD = b"r" * 16


def again(store, text="same", *, settled=False, kind=EntryKind.ADMIT, **fields):
    entry = new_entry("a", text, kind, record_id=RECORD, **fields)
    (result,) = store.commit([entry], [], settled={0} if settled else ())
    return result


def stopped(root, store, how):
    store.close() if how == "cleanly" else abandon(store)
    return open_store(root)


@pytest.mark.parametrize("how", ["cleanly", "killed"])
@pytest.mark.parametrize(("kind", "settled"), [(EntryKind.ADMIT, True), (EntryKind.CONFIG_VERSION, False)])
def test_after_a_start_the_same_record_is_its_entry_and_other_content_a_conflict(
    tmp_path, how, kind, settled
):
    store = open_store(tmp_path)
    store.commit([new_entry("a") for _ in range(3)], [])
    first = again(store, kind=kind)
    for _ in range(2):
        store = stopped(tmp_path, store, how)
        store.commit([new_entry("a")], [])
        same = again(store, kind=kind, settled=settled)
        assert (same.index, same.leaf) == (first.index, first.leaf)
        for change in ({"text": "other"}, {"key_id": "another"}):
            assert isinstance(again(store, kind=kind, settled=settled, **change), RecordConflictError)
    store.close()


def test_what_the_journal_had_is_known_without_its_sequence(tmp_path):
    store = open_store(tmp_path)
    first = again(store)
    store = stopped(tmp_path, store, "killed")
    assert again(store).index == first.index
    assert isinstance(again(store, "other"), RecordConflictError)
    store.close()


def test_a_settled_sequence_never_becomes_a_second_entry(tmp_path):
    """Its record is older than all that is searched, or was refused: that is unknown, so it is not appended."""
    store = open_store(tmp_path)
    store.commit([new_entry("a")], [])
    store.fold()
    before = len(entries_of(store, "a"))
    assert isinstance(again(store, settled=True), RecordForgottenError)
    assert len(entries_of(store, "a")) == before
    store.close()


def test_a_batch_of_settled_records_searches_its_log_once(tmp_path, monkeypatch):
    store = open_store(tmp_path)
    sent = [new_entry("a") for _ in range(20)]
    receipts = store.commit(sent, [])
    store = stopped(tmp_path, store, "cleanly")
    searches = []
    monkeypatch.setattr(
        "services.audit.logs.duplicates.find_records",
        lambda *arguments: searches.append(arguments) or find_records(*arguments),
    )
    again = store.commit([*sent, new_entry("a")], [], settled=range(21))
    assert [result.index for result in again[:20]] == [receipt.index for receipt in receipts]
    assert isinstance(again[20], RecordForgottenError)
    assert len(searches) == 1
    store.close()


def test_a_record_under_a_destroyed_key_is_not_taken_for_another(tmp_path, monkeypatch):
    store = open_store(tmp_path)
    again(store)
    store = stopped(tmp_path, store, "cleanly")
    monkeypatch.setattr(type(store.log("a")), "digest_of", lambda *_: None)
    assert isinstance(again(store, settled=True), RecordConflictError)
    store.close()


def test_a_segment_damaged_where_it_is_read_quarantines_its_log(tmp_path):
    store = open_store(tmp_path)
    again(store)
    store = stopped(tmp_path, store, "cleanly")
    (segment,) = (tmp_path / "logs").glob("*/segments/*.seg")
    data = bytearray(segment.read_bytes())
    data[-1] ^= 1
    segment.write_bytes(bytes(data))
    assert isinstance(again(store, settled=True), LogDamagedError)
    assert isinstance(store.commit([new_entry("a")], [])[0], LogDamagedError)
    assert isinstance(store.commit([new_entry("b")], [])[0], Receipt)
    store.close()


def test_a_small_window_forgets_the_oldest_of_all_logs():
    window = RecentRecords(2)
    for place, log_id in enumerate((b"a", b"b", b"c")):
        window.remember(RECORD, b"digest", Receipt(log_id, place, b"leaf"))
    assert window.get(b"a", RECORD) is None
    assert [window.get(log_id, RECORD).receipt.index for log_id in (b"b", b"c")] == [1, 2]


def test_that_test_notices_a_service_that_takes_the_record_id_for_the_content(tmp_path, monkeypatch):
    store = open_store(tmp_path)
    first = again(store)
    store = stopped(tmp_path, store, "killed")
    monkeypatch.setattr(
        DuplicateCheck,
        "known",
        lambda self, log, place: self._recent.get(log.log_id, self._entries[place].record_id).receipt,
    )
    assert again(store, "other").index == first.index
    store.close()
