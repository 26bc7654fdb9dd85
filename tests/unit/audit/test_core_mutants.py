"""What the core checks before it believes its own files, each check shown by a core without it."""

from __future__ import annotations

import itertools
import os

import pytest

from services.audit.bundle import export
from services.audit.keys.envelope import DataKey, EnvelopeError, dek_open_entry
from services.audit.logs import segments, tenant_log
from services.audit.logs.segments import SegmentDamagedError, segment_path
from services.audit.proofs.entry import EntryKind
from services.audit.proofs.merkle import leaf_hash
from services.audit.storage import recovery
from services.audit.storage.frames import Frame, FrameKind
from services.audit.storage.journal import JournalWriter
from services.audit.storage.recovery import JournalDamagedError
from tests.fakes.mutants import mutant
from tests.unit.audit.audit_state import entries_of, keys_of, new_entry, open_store


def read_with(module, store, tenant_uid) -> list:
    """A tenant's folded entries, decrypted by that version of the exporter."""
    log = store.log(tenant_uid)
    reader = module.LogReader(store.folder(log.log_id), log.folded, log.keyset)
    return list(reader.entries(lambda _: True))


def with_another_commitment(tmp_path, monkeypatch):
    """A log whose DEK_OPEN entry commits to one key while its entries are under another."""
    committed = DataKey(os.urandom(32), b"L" * 16, b"D" * 16)
    monkeypatch.setattr(tenant_log, "dek_open_entry", lambda header, _: dek_open_entry(header, committed))
    store = open_store(tmp_path)
    store.commit([new_entry("a")], [])
    store.fold()
    return store


def test_a_key_that_the_log_did_not_commit_to_decrypts_nothing(tmp_path, monkeypatch):
    store = with_another_commitment(tmp_path, monkeypatch)
    with pytest.raises(EnvelopeError, match="not the one the log committed to"):
        read_with(export, store, "a")
    store.close()


def test_mutant_that_asks_no_commitment_decrypts_all_the_same(tmp_path, monkeypatch):
    store = with_another_commitment(tmp_path, monkeypatch)
    believing = mutant(export, "key.require(opening.commitments[0])", "pass")
    assert read_with(believing, store, "a")[-1].sections is not None
    store.close()


def journal_by(tmp_path, signing_key) -> list:
    folder = tmp_path / "journal"
    folder.mkdir()
    writer = JournalWriter(folder, 1, signing_key, 1, bytes(32))
    writer.write([Frame(FrameKind.SESSION, b"s" * 16 + bytes(8))])
    writer.close()
    return [(path, path.read_bytes()) for path in folder.iterdir()]


def test_a_journal_that_another_key_signed_is_damage(tmp_path):
    files = journal_by(tmp_path, keys_of(tmp_path / "other").log)
    ours = keys_of(tmp_path).log.public_key()
    with pytest.raises(JournalDamagedError):
        recovery.recover(files, ours, bytes(32), 1)


def test_mutant_that_asks_no_signature_believes_it(tmp_path):
    files = journal_by(tmp_path, keys_of(tmp_path / "other").log)
    believing = mutant(recovery, "if not _signed(commit, signature, public_key):", "if False:")
    found = believing.recover(files, keys_of(tmp_path).log.public_key(), bytes(32), 1)
    assert len(found.frames) == 1


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


SPLICES = {"order": "entry.header.index != index", "log": "entry.header.log_id != state.log_id"}


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
    believing = mutant(segments, SPLICES[how], "False")
    assert len(read_segments(believing, store)) == 5
    store._directory.release()


def counters_by_key(tmp_path) -> list[list[int]]:
    """Counters under each data key of a log of 7 records, in the order of the log."""
    store = open_store(tmp_path)
    store.commit([new_entry("a", str(number)) for number in range(7)], [])
    headers = [entry.header for entry in entries_of(store, "a")]
    store.close()
    groups = itertools.groupby(headers, lambda header: header.dek_id)
    found = [(dek_id, list(group)) for dek_id, group in groups]
    assert len({dek_id for dek_id, _ in found}) == len(found)
    assert all(group[0].kind is EntryKind.DEK_OPEN for _, group in found)
    assert len(list(tmp_path.rglob("*.seg"))) == len(found)
    return [[header.counter for header in group[1:]] for _, group in found]


def test_a_data_key_encrypts_no_more_entries_than_it_may(tmp_path, monkeypatch):
    monkeypatch.setattr(tenant_log, "MAX_ENTRIES_PER_SEGMENT", 3)
    assert counters_by_key(tmp_path) == [[1, 2, 3], [1, 2, 3], [1, 2]]


def test_a_data_key_encrypts_no_more_bytes_than_it_may(tmp_path, monkeypatch):
    monkeypatch.setattr(tenant_log, "MAX_SEGMENT_BYTES", 1)
    assert counters_by_key(tmp_path) == [[1, 2], *[[1]] * 6]


@pytest.mark.parametrize("limit", ["MAX_ENTRIES_PER_SEGMENT", "MAX_SEGMENT_BYTES"])
def test_mutant_that_never_takes_another_key_goes_on_with_one(tmp_path, monkeypatch, limit):
    endless = mutant(tenant_log, "if key is None or full:", "if key is None:")
    monkeypatch.setattr(endless, limit, 1)
    monkeypatch.setattr(tenant_log.TenantLog, "append", endless.TenantLog.append)
    assert counters_by_key(tmp_path) == [[1, 2, 3, 4, 5, 6, 7, 8]]


def test_a_leaf_is_over_all_of_an_entry(tmp_path, monkeypatch):
    store = open_store(tmp_path)
    (receipt,) = store.commit([new_entry("a")], [])
    store.fold()
    last = read_with(export, store, "a")[-1].entry.encode()
    assert leaf_hash(last) == receipt.leaf
    assert (
        len({leaf_hash(last[:at] + bytes([last[at] ^ 1]) + last[at + 1 :]) for at in range(len(last))}) == 266
    )
    store.close()
