"""Checks writers' receipts. A log that lacks an entry it gave a receipt for was rolled back, and is quarantined.

Only that log is: the logs that still hold the entries of their receipts go on.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence

from tenantry.audit.v1 import entry_pb2

from services.audit.logs.receipt_lookup import LogView, broken_receipt
from services.audit.logs.store import LogStore
from services.audit.rpc.appender import Appender

_VIEWS = 64
"""How many logs are looked up between two batches."""


async def check_receipts(appender: Appender, receipts: Sequence[entry_pb2.Receipt]) -> None:
    """Quarantine every log that no longer holds the entry of one of these receipts. Closed logs are left alone."""
    for start in range(0, len(receipts), _VIEWS):
        some = receipts[start : start + _VIEWS]
        views, unknown = await appender.with_store(functools.partial(_look, some))
        broken = await asyncio.to_thread(_broken, views, some)
        if broken or unknown:
            await appender.with_store(functools.partial(_quarantine, broken, unknown))


def _look(receipts: Sequence[entry_pb2.Receipt], store: LogStore) -> tuple[list[LogView | None], bool]:
    """The logs of the receipts, and whether one of them is in no list of logs."""
    return (
        [store.view(receipt.log_id, receipt.index) for receipt in receipts],
        not all(store.logs.registry.is_known(receipt.log_id) for receipt in receipts),
    )


def _quarantine(broken: dict[str, str], unknown: bool, store: LogStore) -> None:
    for tenant_uid, why in broken.items():
        store.logs.quarantine(tenant_uid, why)
    if unknown:
        store.logs.begin_no_more("a writer holds a receipt of a log that is not in logs/tenants.json")


def _broken(views: Sequence[LogView | None], receipts: Sequence[entry_pb2.Receipt]) -> dict[str, str]:
    found = {}
    for view, receipt in zip(views, receipts, strict=True):
        why = broken_receipt(view, receipt.index, receipt.leaf_hash) if view is not None else ""
        if view is not None and why:
            found[view.tenant_uid] = why
    return found
