"""After a stop of any kind, acknowledged entries are there once and in order, and no nonce repeats."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.audit.logs.segments import fold_log
from services.audit.logs.store import LogStore
from services.audit.logs.tenant_log import Receipt, RecordConflictError
from services.audit.storage.frames import Frame, Place, SessionMark, decode_frame
from services.audit.storage.journal import COMMIT_FRAME_BYTES, parse_file_name
from services.audit.storage.recovery import JournalDamagedError, recover
from services.audit.storage.state_directory import StateInUseError
from tests.unit.audit.audit_state import abandon, entries_of, keys_of, new_entry, open_store


def wal_files(root):
    return [(path, path.read_bytes()) for path in sorted((root / "wal").glob("*.wal"))]


def test_acknowledged_entries_survive_kill_and_clean_stops(tmp_path):
    acknowledged: list[bytes] = []
    for round_number in range(4):
        store = open_store(tmp_path)
        for _ in range(3):
            batch = [new_entry("a"), new_entry("b"), new_entry("a")]
            results = store.commit(batch, [SessionMark(b"s" * 16, len(acknowledged))])
            assert all(isinstance(result, Receipt) for result in results)
            acknowledged += [new.record_id for new in batch if new.tenant_uid == "a"]
        if round_number == 1:
            store.close()
        else:
            abandon(store)
    store = open_store(tmp_path)
    entries = entries_of(store, "a")
    assert [entry.header.index for entry in entries] == list(range(len(entries)))
    kept = [entry.header.record_id for entry in entries if entry.header.record_id in set(acknowledged)]
    assert kept == acknowledged
    nonces = [(entry.header.dek_id, entry.header.counter) for entry in entries]
    assert len(set(nonces)) == len(nonces)
    times = [entry.header.time_ns for entry in entries]
    assert times == sorted(times)
    assert store.sessions[b"s" * 16].sequence > 0
    store.close()


def test_mutant_a_reopened_data_key_repeats_nonces(tmp_path, monkeypatch):
    """What a torn tail does to a service that goes on with its old key: the reason for a new one at every start."""
    store = open_store(tmp_path)
    store.commit([new_entry("a")], [])
    dek = store.log("a")._dek
    before = [(dek.dek_id, store.log("a")._counter)]
    abandon(store)
    for path, _ in wal_files(tmp_path):  # the tail is torn: the entry is gone
        path.write_bytes(b"")
    again = open_store(tmp_path)
    log = again.log("a", create=True)
    log._dek, log._counter = dek, 0  # the mutant
    again.commit([new_entry("a")], [])
    assert (log._dek.dek_id, log._counter) in before
    again.close()


def tail_of(root):
    """A journal with two acknowledged batches and one that a crash tore: returns (data, committed end, key)."""
    store = open_store(root)
    store.commit([new_entry("a", "one"), new_entry("b", "two")], [])
    store.commit([new_entry("a", "three")], [])
    end = store._journal._offset
    store.commit([new_entry("a", "four"), new_entry("b", "five")], [])
    torn = store._journal._offset
    abandon(store)
    ((path, data),) = wal_files(root)
    return path, data[:torn], end, keys_of(root).log.public_key()


def test_a_tail_cut_at_any_byte_is_dropped_and_nothing_else(tmp_path):
    path, data, end, key = tail_of(tmp_path)
    whole = recover([(path, data)], key, bytes(32), 1)
    for cut in range(end, len(data)):
        found = recover([(path, data[:cut])], key, bytes(32), 1)
        assert found.next_batch == 3
        assert found.frames == whole.frames[: len(found.frames)]


def test_a_tail_garbled_at_any_byte_is_dropped_and_nothing_else(tmp_path):
    path, data, end, key = tail_of(tmp_path)
    for place in range(end, len(data)):
        garbled = data[:place] + bytes([data[place] ^ 0x40]) + data[place + 1 :]
        assert recover([(path, garbled)], key, bytes(32), 1).next_batch == 3


def test_a_last_batch_whose_commit_reached_the_disk_before_its_frames_is_dropped(tmp_path):
    """Power fails within the fdatasync: the pages of one write are kept in any order."""
    path, data, end, key = tail_of(tmp_path)
    for zeroed in range(end, len(data) - COMMIT_FRAME_BYTES, 64):
        upto = min(zeroed + 512, len(data) - COMMIT_FRAME_BYTES)
        torn = data[:zeroed] + bytes(upto - zeroed) + data[upto:]
        assert recover([(path, torn)], key, bytes(32), 1).next_batch == 3


def test_damage_of_a_files_last_batch_is_noticed_by_the_next_files_first(tmp_path):
    store = open_store(tmp_path)
    store.commit([new_entry("a")], [])
    store._journal.roll()
    store.commit([new_entry("a")], [])
    abandon(store)
    (path, data), second = wal_files(tmp_path)
    with pytest.raises(JournalDamagedError):
        recover([(path, bytes(512) + data[512:]), second], keys_of(tmp_path).log.public_key(), bytes(32), 1)


def test_whole_frames_that_are_not_the_ones_committed_stop_the_service(tmp_path):
    """An intruder makes checksums; a torn write does not: nothing of this is dropped as a tail."""
    path, data, end, key = tail_of(tmp_path)
    frame = decode_frame(data, end, Place(*parse_file_name(path.name), end))
    forged = Frame(frame.kind, frame.body[:-1] + bytes([frame.body[-1] ^ 1]))
    forged_bytes = forged.encode(Place(*parse_file_name(path.name), end))
    with pytest.raises(JournalDamagedError, match="another batch"):
        recover([(path, data[:end] + forged_bytes + data[end + len(forged_bytes) :])], key, bytes(32), 1)


def test_damage_below_a_later_commit_stops_the_service(tmp_path):
    path, data, end, key = tail_of(tmp_path)
    for place in range(0, end, 5):
        damaged = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        with pytest.raises(JournalDamagedError, match=path.name):
            recover([(path, damaged)], key, bytes(32), 1)


def test_a_missing_journal_file_is_noticed(tmp_path):
    store = open_store(tmp_path)
    store.commit([new_entry("a")], [])
    store._journal.roll()
    store.commit([new_entry("a")], [])
    abandon(store)
    (_, second) = wal_files(tmp_path)
    with pytest.raises(JournalDamagedError):
        recover([second], keys_of(tmp_path).log.public_key(), bytes(32), 1)


def test_a_repeated_record_is_one_entry_and_other_content_is_refused(tmp_path):
    store = open_store(tmp_path)
    first = new_entry("a", "same", record_id=b"r" * 16)
    (receipt,) = store.commit([first], [])
    (again,) = store.commit([first], [])
    assert (again.index, again.leaf) == (receipt.index, receipt.leaf)
    (conflict,) = store.commit([new_entry("a", "other", record_id=b"r" * 16)], [])
    assert isinstance(conflict, RecordConflictError)
    abandon(store)
    store = open_store(tmp_path)
    (after,) = store.commit([first], [])
    assert (after.index, after.leaf) == (receipt.index, receipt.leaf)
    store.close()


def test_a_log_that_has_not_changed_costs_a_fold_nothing(tmp_path, monkeypatch):
    store = open_store(tmp_path)
    store.commit([new_entry("a"), new_entry("b")], [], ["a", "b"])
    store.fold()
    store.commit([new_entry("b")], [], ["b"])
    folded = []
    monkeypatch.setattr(
        "services.audit.logs.fold.fold_log",
        lambda folder, log, limit: folded.append(log.folded.tenant_uid) or fold_log(folder, log, limit),
    )
    store.fold()
    assert folded == ["b"]
    store.close()


def test_two_services_never_share_a_directory(tmp_path):
    store = open_store(tmp_path)
    with pytest.raises(StateInUseError):
        open_store(tmp_path)
    store.close()


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(script=st.lists(st.sampled_from(["commit", "fold", "kill", "close"]), max_size=12))
def test_any_history_keeps_every_acknowledged_entry_in_order(tmp_path_factory, script):
    root = tmp_path_factory.mktemp("history")
    store: LogStore = open_store(root)
    acknowledged: list[bytes] = []
    for step in script:
        if step == "commit":
            new = new_entry("a")
            store.commit([new], [], ["a"])
            acknowledged.append(new.record_id)
        elif step == "fold":
            store.fold()
        else:
            abandon(store) if step == "kill" else store.close()
            store = open_store(root)
    if acknowledged:
        entries = entries_of(store, "a")
        found = [entry.header.record_id for entry in entries if entry.header.kind < 10]
        assert found == acknowledged
    store.close()
