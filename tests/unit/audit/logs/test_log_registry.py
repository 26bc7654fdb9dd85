"""A log names its tenant and the log before it in its tree; one file lists the logs of each tenant."""

from __future__ import annotations

import hashlib
import json
import os

import pytest
from tenantry.audit.v1 import entry_pb2

from services.audit.keys.root import FileKeyProvider
from services.audit.logs.log_registry import LogRegistry
from services.audit.logs.open_logs import begin_log
from services.audit.logs.tenant_log import Receipt
from services.audit.proofs.entry import EntryKind
from services.audit.rpc.intake import parse_entry
from services.audit.storage.state_files import StateFileError
from services.common.errors import InvalidArgumentError
from tests.unit.audit.audit_state import abandon, entries_of, new_entry, open_store


def test_a_log_says_whose_it_is_before_its_first_record(tmp_path):
    store = open_store(tmp_path)
    store.commit([new_entry("a"), new_entry("b")], [])
    store.commit([new_entry("a")], [])
    abandon(store)
    store = open_store(tmp_path)
    store.commit([new_entry("a")], [])
    kinds = [entry.header.kind for entry in entries_of(store, "a")]
    assert kinds[:2] == [EntryKind.DEK_OPEN, EntryKind.LOG_OPENED]
    assert kinds.count(EntryKind.LOG_OPENED) == 1
    for tenant_uid in ("a", "b"):
        opened = entries_of(store, tenant_uid)[1].header
        assert opened.key_digest == hashlib.sha256(tenant_uid.encode()).digest()[:16]
        assert opened.record_id == opened.log_id
        assert opened.admit_record_id == bytes(16)
    store.close()


def test_a_successor_names_the_log_it_continues(tmp_path):
    store = open_store(tmp_path)
    store.commit([new_entry("a", "one")], [])
    store.close()
    registry = LogRegistry(tmp_path / "logs" / "tenants.json")
    before, after = registry.open_log("a"), os.urandom(16)
    registry.add({"a": after})
    assert (registry.open_log("a"), registry.predecessor("a")) == (after, before)
    assert (registry.owner(after), registry.owner(before)) == ("a", None)
    again = LogRegistry(tmp_path / "logs" / "tenants.json")
    assert (again.open_log("a"), again.predecessor("a"), again.tenant_uids()) == (after, before, ["a"])
    (tmp_path / "keyring" / before.hex()).rename(tmp_path / "old-ring")
    store = open_store(tmp_path)
    begin_log(tmp_path, "a", after, FileKeyProvider(tmp_path / "keys" / "root.kek"))
    (receipt,) = store.commit([new_entry("a", "two")], [])
    assert isinstance(receipt, Receipt)
    assert receipt.log_id == after
    assert entries_of(store, "a")[1].header.admit_record_id == before
    store.close()


@pytest.mark.parametrize(
    "tenants",
    [
        {"a": []},
        {"a": "0" * 32},
        {"a": ["0" * 32]},
        {"a": [{"log_id": "00"}]},
        {"a": [{"log_id": "x" * 32}]},
        {"a": [{}]},
        {"a": [{"log_id": "0" * 32}], "b": [{"log_id": "0" * 32}]},
        [],
        None,
    ],
    ids=str,
)
def test_a_list_of_logs_that_cannot_be_is_refused(tmp_path, tenants):
    path = tmp_path / "tenants.json"
    path.write_text(json.dumps({"version": 1, "tenants": tenants}))
    with pytest.raises(StateFileError):
        LogRegistry(path)


def test_a_list_of_logs_of_another_version_is_refused(tmp_path):
    store = open_store(tmp_path)
    store.commit([new_entry("a")], [])
    store.close()
    path = tmp_path / "logs" / "tenants.json"
    for version in (0, 2, True, None):
        path.write_text(json.dumps({**json.loads(path.read_bytes()), "version": version}))
        with pytest.raises(StateFileError, match=r"tenants\.json has version"):
            open_store(tmp_path)


def appended(kind: entry_pb2.EntryKind.ValueType) -> entry_pb2.AppendEntry:
    return entry_pb2.AppendEntry(
        sequence=1, tenant_uid="a", record_id=b"r" * 16, kind=kind, meta_json=b"{}", key_id="k"
    )


def test_an_admit_says_which_session_of_which_writer_began_it(tmp_path):
    """A later start can find the writer of open admits from clear fields alone."""
    store = open_store(tmp_path)
    message = appended(entry_pb2.ENTRY_KIND_ADMIT)
    store.commit([parse_entry(message, b"s" * 16, "router-1")], [])
    # Another session sends the same record again: it is the same entry.
    (again,) = store.commit([parse_entry(message, b"t" * 16, "router-1")], [])
    assert isinstance(again, Receipt)
    header = entries_of(store, "a")[again.index].header
    assert header.session_id == b"s" * 16
    assert header.writer_digest == hashlib.sha256(b"router-1").digest()[:16]
    store.close()


@pytest.mark.parametrize(
    "kind",
    [entry_pb2.ENTRY_KIND_LOG_OPENED, entry_pb2.ENTRY_KIND_DEK_OPEN, entry_pb2.ENTRY_KIND_OUTCOME_UNKNOWN],
)
def test_no_writer_appends_what_only_the_service_may(kind):
    with pytest.raises(InvalidArgumentError):
        parse_entry(appended(kind))
