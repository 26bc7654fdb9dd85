"""A fold takes a few logs at a time. Batches and crashes between its slices lose nothing."""

from __future__ import annotations

import pytest

from services.audit.logs import fold, open_logs
from services.audit.logs.segments import fold_log, read_entries, segment_path
from services.audit.logs.tenant_log import Receipt
from services.audit.proofs.entry import EntryKind
from services.common import durable_files
from tests.fakes.manual_clock import ManualClock
from tests.unit.audit.audit_state import abandon, entries_of, new_entry, open_store

TENANTS = [f"tenant-{number}" for number in range(7)]


def admits(store, tenant_uid):
    entries = entries_of(store, tenant_uid)
    return [entry.header.record_id for entry in entries if entry.header.kind is EntryKind.ADMIT]


def put_everywhere(store, written):
    batch = [new_entry(tenant_uid) for tenant_uid in TENANTS]
    store.commit(batch, [], TENANTS)
    for new in batch:
        written.setdefault(new.tenant_uid, []).append(new.record_id)


@pytest.mark.parametrize("slices", range(5))
def test_a_crash_between_two_slices_loses_nothing(tmp_path, slices):
    store = open_store(tmp_path)
    written: dict[str, list[bytes]] = {}
    put_everywhere(store, written)
    store.begin_fold()
    for _ in range(slices):
        store.fold_slice()
        put_everywhere(store, written)
    abandon(store)
    store = open_store(tmp_path)
    assert {tenant_uid: admits(store, tenant_uid) for tenant_uid in TENANTS} == written
    store.close()


def test_a_start_folds_nothing_by_itself_and_several_in_a_row_lose_nothing(tmp_path, monkeypatch):
    written: dict[str, list[bytes]] = {}
    synced = []
    monkeypatch.setattr(
        "services.audit.logs.store.sync_file",
        lambda path: synced.append(path) or durable_files.sync_file(path),
    )
    for start in range(4):
        store = open_store(tmp_path)
        journal = sorted((tmp_path / "wal").iterdir())
        assert len(journal) == start
        assert sorted(synced) == journal, "a later batch may be durable and these only in the kernel"
        synced.clear()
        put_everywhere(store, written)
        abandon(store)
    store = open_store(tmp_path)
    assert store.needs_fold
    assert {tenant_uid: admits(store, tenant_uid) for tenant_uid in TENANTS} == written
    store.close()
    assert list((tmp_path / "wal").iterdir()) == []


@pytest.mark.parametrize("begun", [True, False])
def test_a_stop_folds_as_long_as_it_has_time_and_the_next_start_the_rest(tmp_path, monkeypatch, begun):
    clock = ManualClock()
    store = open_store(tmp_path, clock)
    written: dict[str, list[bytes]] = {}
    put_everywhere(store, written)
    if begun:
        store.begin_fold()
    folded = []
    monkeypatch.setattr(
        "services.audit.logs.fold.fold_log",
        lambda *arguments: (clock.advance(0.6), folded.append(fold_log(*arguments)))[0],
    )
    store.close()
    assert 0 < len(folded) < len(TENANTS)
    store = open_store(tmp_path)
    assert {tenant_uid: admits(store, tenant_uid) for tenant_uid in TENANTS} == written
    store.close()


def test_a_slice_folds_a_few_logs_and_the_last_removes_the_journal(tmp_path, monkeypatch):
    store = open_store(tmp_path)
    put_everywhere(store, {})
    folded: list[list[str]] = [[]]
    monkeypatch.setattr(
        "services.audit.logs.fold.fold_log",
        lambda folder, log, limit, real=fold_log: (
            folded[-1].append(log.folded.tenant_uid) or real(folder, log, limit)
        ),
    )
    before = list((tmp_path / "wal").iterdir())
    store.begin_fold()
    while store.fold_slice():
        assert list((tmp_path / "wal").iterdir()) == before
        folded.append([])
    assert list((tmp_path / "wal").iterdir()) == []
    assert sorted(tenant_uid for logs in folded for tenant_uid in logs) == TENANTS
    assert max(len(logs) for logs in folded) == 1
    assert len(folded) == 2 * len(TENANTS)  # each log's keyring has a slice of its own
    store.close()


def test_a_large_log_is_folded_in_parts_whose_tree_is_right(tmp_path, monkeypatch):
    monkeypatch.setattr(fold, "SLICE_BYTES", 4000)
    store = open_store(tmp_path)
    store.commit([new_entry("a", "x" * 1000) for _ in range(20)], [], ["a"])
    store.begin_fold()
    log = store.log("a")
    sizes = []
    while store.fold_slice():
        sizes.append(log.folded.size)
        assert log.folded.size + len(log.pending) == log.frontier.size
    assert sizes == sorted(set(sizes))
    assert len(sizes) > 4
    abandon(store)
    store = open_store(tmp_path)
    assert store.log("a").frontier.root() == log.frontier.root()
    assert len(admits(store, "a")) == 20
    store.close()


def test_one_log_is_folded_for_its_reader_without_the_others(tmp_path):
    store = open_store(tmp_path)
    put_everywhere(store, {})
    while store.fold_tenant(TENANTS[0]):
        pass
    log = store.log(TENANTS[0])
    assert len(list(read_entries(store.folder(log.log_id), log.folded))) == log.frontier.size
    assert store.log(TENANTS[1]).folded.size == 0
    store.close()


def test_opening_a_log_reads_none_of_its_history(tmp_path):
    for _ in range(3):
        store = open_store(tmp_path)
        store.commit([new_entry("a")], [])
        store.close()
    store = open_store(tmp_path)
    folder = next((tmp_path / "logs").glob("*/segments")).parent
    for number in range(1, 4):
        path = segment_path(folder, number)
        path.write_bytes(bytes(path.stat().st_size))
    assert isinstance(store.commit([new_entry("a")], [])[0], Receipt)
    abandon(store)


def test_only_so_many_logs_stay_open_and_none_with_something_to_write(tmp_path, monkeypatch):
    monkeypatch.setattr(open_logs, "MAX_OPEN_LOGS", 3)
    store = open_store(tmp_path)
    written: dict[str, list[bytes]] = {}
    put_everywhere(store, written)
    assert sum(1 for _ in store.logs) == len(TENANTS)
    store.checkpointed(TENANTS)
    store.fold()
    assert sum(1 for _ in store.logs) == 3
    put_everywhere(store, written)
    assert {tenant_uid: admits(store, tenant_uid) for tenant_uid in TENANTS} == written
    nonces = [
        (entry.header.dek_id, entry.header.counter)
        for tenant_uid in TENANTS
        for entry in entries_of(store, tenant_uid)
    ]
    assert len(set(nonces)) == len(nonces)
    store.close()
