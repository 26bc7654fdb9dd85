"""Writers' receipts show a roll-back of their own log, and of no other."""

from __future__ import annotations

import dataclasses

import pytest
from tenantry.audit.v1 import entry_pb2

from services.audit.keys.root import FileKeyProvider
from services.audit.logs.log_registry import LogRegistry
from services.audit.logs.open_logs import HELD, begin_log
from services.audit.logs.receipt_lookup import broken_receipt
from services.audit.logs.tenant_log import LogDamagedError, Receipt
from services.audit.rpc.receipt_check import check_receipts
from tests.unit.audit.audit_state import new_entry, open_store
from tests.unit.audit.rpc.append_streams import service_on


def proto(receipt: Receipt, **changes) -> entry_pb2.Receipt:
    receipt = dataclasses.replace(receipt, **changes)
    return entry_pb2.Receipt(log_id=receipt.log_id.hex(), index=receipt.index, leaf_hash=receipt.leaf)


def put(store, tenant_uid, count=1):
    return store.commit([new_entry(tenant_uid) for _ in range(count)], [])


@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.parametrize("reopened", [True, False])
def test_every_receipt_of_a_whole_log_holds_and_no_other_does(tmp_path, folded, reopened):
    store = open_store(tmp_path)
    receipts = put(store, "a", 3)
    if reopened:
        store.close()
        store = open_store(tmp_path)
    receipts += put(store, "a", 3)
    if folded:
        store.fold()
    for receipt in receipts:
        view = store.view(receipt.log_id.hex(), receipt.index)
        assert broken_receipt(view, receipt.index, receipt.leaf) == ""
        assert "another" in broken_receipt(view, receipt.index, b"l" * 32)
    beyond = receipts[-1].index + 1
    assert "ends before" in broken_receipt(store.view(receipts[0].log_id.hex(), beyond), beyond, b"l" * 32)
    assert store.view("00" * 16, 0) is None
    store.close()


def test_a_closed_log_is_judged_without_opening_it(tmp_path):
    store = open_store(tmp_path)
    (receipt,) = put(store, "a")
    store.close()
    store = open_store(tmp_path)
    view = store.view(receipt.log_id.hex(), receipt.index)
    assert broken_receipt(view, receipt.index, receipt.leaf) == ""
    assert list(store.logs) == []
    store.close()


@pytest.mark.parametrize("change", [{"index": 7}, {"leaf": b"l" * 32}], ids=["behind", "went-on"])
async def test_the_log_that_was_rolled_back_is_quarantined_and_the_others_go_on(tmp_path, change):
    async with service_on(tmp_path) as service:
        (a,), (b,) = put(service.store, "a"), put(service.store, "b")
        await check_receipts(service.appender, [proto(a, **change), proto(b)])
        refused, durable = service.store.commit([new_entry("a"), new_entry("b")], [])
        assert isinstance(refused, LogDamagedError)
        assert "rolled back" in refused.why
        assert isinstance(durable, Receipt)
        assert service.store.log("a") is not None  # it can be read and exported


async def test_a_receipt_of_a_log_nobody_knows_ends_the_making_of_logs(tmp_path):
    """The list of logs was rolled back: a tenant that is not in it may have a log all the same."""
    async with service_on(tmp_path) as service:
        (known,) = put(service.store, "a")
        await check_receipts(service.appender, [proto(known, log_id=b"l" * 16), proto(known)])
        durable, refused = service.store.commit([new_entry("a"), new_entry("b")], [])
        assert isinstance(durable, Receipt)
        assert isinstance(refused, LogDamagedError)


async def test_a_receipt_of_a_closed_log_says_nothing_of_the_one_that_continues_it(tmp_path):
    async with service_on(tmp_path) as service:
        (closed,) = put(service.store, "a")
    begin_log(tmp_path, "a", b"n" * 16, FileKeyProvider(tmp_path / "keys" / "root.kek"))
    LogRegistry(tmp_path / "logs" / "tenants.json").add({"a": b"n" * 16})
    async with service_on(
        tmp_path
    ) as service:  # the journal still has the closed log's entries: they are held
        await check_receipts(service.appender, [proto(closed)])
        receipts = put(service.store, "a") + put(service.store, "b")
        assert all(isinstance(receipt, Receipt) for receipt in receipts)
        assert receipts[0].log_id == b"n" * 16
        assert (service.store.folder(closed.log_id) / HELD).stat().st_size > 0
