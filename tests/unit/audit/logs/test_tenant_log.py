"""A data key encrypts a bounded number of entries and bytes."""

from __future__ import annotations

import itertools

import pytest

from services.audit.logs import tenant_log
from services.audit.proofs.entry import EntryKind
from tests.fakes.mutants import changed
from tests.unit.audit.audit_state import entries_of, new_entry, open_store


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
    endless = changed(tenant_log, "bounded-data-key", "is_full = False")
    monkeypatch.setattr(endless, limit, 1)
    monkeypatch.setattr(tenant_log.TenantLog, "append", endless.TenantLog.append)
    assert counters_by_key(tmp_path) == [[1, 2, 3, 4, 5, 6, 7, 8]]
