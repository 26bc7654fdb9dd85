"""The exporter checks the service's own files before it uses them."""

from __future__ import annotations

import os

import pytest

from services.audit.bundle import export
from services.audit.keys.envelope import DataKey, EnvelopeError, dek_open_entry
from services.audit.logs import tenant_log
from services.audit.proofs.merkle import leaf_hash
from tests.fakes.mutants import without
from tests.unit.audit.audit_state import new_entry, open_store


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
    believing = without(export, "committed-key")
    assert read_with(believing, store, "a")[-1].sections is not None
    store.close()


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
