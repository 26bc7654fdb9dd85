"""One process claims a directory, and a directory in use never gets new keys or lists."""

from __future__ import annotations

import pytest

from services.audit.proofs.entry import EntryKind
from services.audit.storage.recovery import JournalDamagedError
from services.audit.storage.state_directory import StateDirectory, StateIncompleteError, StateInUseError
from tests.unit.audit.audit_state import abandon, entries_of, keys_of, new_entry, open_store

KEY_FILES = ("log.ed25519", "manifest.ed25519", "grants.pem", "root.kek")


def with_one_entry(root):
    store = open_store(root)
    store.commit([new_entry("a")], [])
    return store


def admits(store):
    return [entry for entry in entries_of(store, "a") if entry.header.kind is EntryKind.ADMIT]


@pytest.mark.parametrize("name", KEY_FILES)
@pytest.mark.parametrize("folded", [True, False])
def test_a_lost_key_is_not_made_anew_beside_evidence(tmp_path, name, folded):
    store = with_one_entry(tmp_path)
    store.close() if folded else abandon(store)
    before = sorted(path for path in tmp_path.rglob("*") if path.name != name)
    key = (tmp_path / "keys" / name).read_bytes()
    (tmp_path / "keys" / name).unlink()
    with pytest.raises(StateIncompleteError, match=name):
        open_store(tmp_path)
    assert not (tmp_path / "keys" / name).exists()
    assert sorted(path for path in tmp_path.rglob("*") if path.name != name) == before
    (tmp_path / "keys" / name).write_bytes(key)
    store = open_store(tmp_path)
    assert len(admits(store)) == 1
    store.close()


def test_batches_that_another_key_signed_stop_the_service_and_are_kept(tmp_path):
    """What a lost key looked like once it had been made anew: a journal that is one torn tail."""
    store = with_one_entry(tmp_path)
    abandon(store)
    (journal,) = (tmp_path / "wal").glob("*.wal")
    before = journal.read_bytes()
    key = (tmp_path / "keys" / "log.ed25519").read_bytes()
    (tmp_path / "keys" / "log.ed25519").unlink()
    (tmp_path / "keys" / "log.ed25519").write_bytes(bytes(32))
    with pytest.raises(JournalDamagedError, match=journal.name):
        open_store(tmp_path)
    assert journal.read_bytes() == before
    (tmp_path / "keys" / "log.ed25519").chmod(0o600)
    (tmp_path / "keys" / "log.ed25519").write_bytes(key)
    store = open_store(tmp_path)
    assert len(admits(store)) == 1
    store.close()


def test_a_first_start_that_stopped_between_its_keys_goes_on(tmp_path):
    keys_of(tmp_path)
    (tmp_path / "keys" / "log.ed25519").unlink()
    store = with_one_entry(tmp_path)
    assert len(admits(store)) == 1
    store.close()


def test_the_claim_comes_before_anything_is_made(tmp_path):
    root = tmp_path / "state"
    claimed = StateDirectory.claim(root)
    assert list((root / "keys").iterdir()) == []
    with pytest.raises(StateInUseError):
        StateDirectory.claim(root)
    claimed.release()
    StateDirectory.claim(root).release()


def test_a_claim_removes_what_a_crash_left_of_replaced_files_and_nothing_else(tmp_path):
    store = with_one_entry(tmp_path)
    store.close()
    left = tmp_path / "keyring" / f".0123.{'ab' * 8}"
    left.write_bytes(b"half of a keyring")
    kept = tmp_path / "keys" / ".note"
    kept.write_bytes(b"not ours")
    StateDirectory.claim(tmp_path).release()
    assert not left.exists()
    assert kept.exists()
