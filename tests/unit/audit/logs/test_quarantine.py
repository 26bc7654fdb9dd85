"""Damage of one log affects its tenant alone, destroys nothing, and ends when the files are restored."""

from __future__ import annotations

import pytest

from services.audit.logs.open_logs import HELD
from services.audit.logs.tenant_log import LogDamagedError, Receipt
from services.audit.proofs.entry import EntryKind
from services.audit.storage.state_directory import StateIncompleteError
from tests.unit.audit.audit_state import abandon, entries_of, new_entry, open_store


def folder_of(root, tenant_uid):
    """Without a store: opening one folds."""
    owner = f'"tenant_uid": "{tenant_uid}"'.encode()
    return next(state.parent for state in (root / "logs").glob("*/state.json") if owner in state.read_bytes())


def bytes_of(root):
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def admits(store, tenant_uid):
    entries = entries_of(store, tenant_uid)
    return [entry.header.record_id for entry in entries if entry.header.kind is EntryKind.ADMIT]


def used(root, *, fold: bool):
    """A state of two tenants; returns the record ids of the first."""
    store = open_store(root)
    made = [new_entry("a"), new_entry("a")]
    store.commit([*made, new_entry("b")], [])
    store.fold()
    if not fold:
        made.append(new_entry("a"))
        store.commit([made[-1], new_entry("b")], [])
    abandon(store)
    return [new.record_id for new in made]


def lose_state(folder, ring):
    (folder / "state.json").unlink()


def garble_state(folder, ring):
    (folder / "state.json").write_bytes(b'{"version": 1, "size": []}')


def lose_keyring(folder, ring):
    ring.unlink()


def garble_keyring(folder, ring):
    ring.write_bytes(b"{}")


def cut_segment(folder, ring):
    segment = folder / "segments" / "00000001.seg"
    segment.write_bytes(segment.read_bytes()[:-1])


def lose_segment(folder, ring):
    (folder / "segments" / "00000001.seg").unlink()


DAMAGES = [lose_state, garble_state, lose_keyring, garble_keyring, cut_segment, lose_segment]


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_log_refuses_its_tenant_and_nobody_else(tmp_path, damage, fold):
    written = used(tmp_path, fold=fold)
    folder = folder_of(tmp_path, "a")
    ring = tmp_path / "keyring" / folder.name
    whole = {
        path: data for path, data in bytes_of(tmp_path).items() if folder in path.parents or path == ring
    }
    damage(folder, ring)
    damaged = {path: path.read_bytes() for path in whole if path.exists()}
    for _ in range(2):
        store = open_store(tmp_path)
        refused, receipt = store.commit([new_entry("a"), new_entry("b")], [], ["a", "b"])
        assert isinstance(refused, LogDamagedError)
        assert folder.name in refused.why
        assert folder.name not in str(refused)
        assert isinstance(receipt, Receipt)
        with pytest.raises(LogDamagedError):
            store.log("a")
        store.close()
        assert {path: path.read_bytes() for path in damaged} == damaged, "evidence was overwritten"
    for path, data in whole.items():
        path.write_bytes(data)
    store = open_store(tmp_path)
    after = new_entry("a")
    store.commit([after], [])
    assert admits(store, "a") == [*written, after.record_id]
    assert not (folder / HELD).exists()
    store.close()


def test_acknowledged_entries_of_a_quarantined_log_are_held_until_it_opens_again(tmp_path):
    written = used(tmp_path, fold=False)
    folder = folder_of(tmp_path, "a")
    ring = tmp_path / "keyring" / folder.name
    keys = ring.read_bytes()
    ring.unlink()
    store = open_store(tmp_path)
    store.fold()
    assert list((tmp_path / "wal").iterdir()) == []
    assert (folder / HELD).stat().st_size > 0
    abandon(store)
    ring.write_bytes(keys)
    store = open_store(tmp_path)
    assert admits(store, "a") == written
    assert not (folder / HELD).exists()
    store.close()


def rolled_back(root):
    """A log whose state is older than what the journal continues."""
    store = open_store(root)
    store.commit([new_entry("a"), new_entry("b")], [])
    state = store.folder(store.log("a").log_id) / "state.json"
    older = state.read_bytes()
    store.fold()
    store.commit([new_entry("a"), new_entry("b")], [])
    abandon(store)
    newer = state.read_bytes()
    state.write_bytes(older)
    return state, newer


def test_a_gap_between_segments_and_journal_is_damage_and_never_enters_the_tree(tmp_path):
    state, newer = rolled_back(tmp_path)
    older = state.read_bytes()
    segments = bytes_of(state.parent / "segments")
    store = open_store(tmp_path)
    refused, receipt = store.commit([new_entry("a"), new_entry("b")], [])
    assert isinstance(refused, LogDamagedError)
    assert "are missing" in refused.why
    assert isinstance(receipt, Receipt)
    store.close()
    assert state.read_bytes() == older
    assert bytes_of(state.parent / "segments") == segments
    state.write_bytes(newer)
    store = open_store(tmp_path)
    assert len(admits(store, "a")) == 2
    store.close()


@pytest.mark.parametrize("name", ["wal.json", "logs/tenants.json"])
def test_a_lost_list_of_logs_or_position_stops_the_service(tmp_path, name):
    used(tmp_path, fold=True)
    kept = (tmp_path / name).read_bytes()
    (tmp_path / name).unlink()
    before = bytes_of(tmp_path)
    with pytest.raises(StateIncompleteError, match=name.split("/")[-1]):
        open_store(tmp_path)
    assert bytes_of(tmp_path) == before
    (tmp_path / name).write_bytes(kept)
    open_store(tmp_path).close()


def test_a_log_that_breaks_while_it_is_open_does_not_stop_the_fold(tmp_path):
    store = open_store(tmp_path)
    written = [new_entry("a"), new_entry("a")]
    store.commit([written[0], new_entry("b")], [])
    store.fold()
    folder = store.folder(store.log("a").log_id)
    segment = folder / "segments" / "00000001.seg"
    whole = segment.read_bytes()
    segment.write_bytes(whole[:-1])
    store.commit([written[1], new_entry("b")], [])
    store.fold()
    refused, receipt = store.commit([new_entry("a"), new_entry("b")], [])
    assert isinstance(refused, LogDamagedError)
    assert isinstance(receipt, Receipt)
    store.close()
    segment.write_bytes(whole)
    store = open_store(tmp_path)
    assert admits(store, "a") == [new.record_id for new in written]
    store.close()


def test_a_log_that_was_begun_and_never_used_opens_again(tmp_path):
    store = open_store(tmp_path)
    store.log("a", create=True)
    abandon(store)
    store = open_store(tmp_path)
    assert isinstance(store.commit([new_entry("a")], [])[0], Receipt)
    store.close()
