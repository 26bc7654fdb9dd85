"""Records the newest config versions again after a start.

The process that wrote a version records it, and may have died between etcd's answer and the audit service's. A version
always has the same record id, so recording it again leaves one entry.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from google.protobuf.message import DecodeError
from tenantry.config.v1 import stored_pb2

from services.common.audit.writer import AuditEntry, AuditReceipt
from services.common.backoff import Backoff
from services.common.errors import Error, UnavailableError
from services.config.etcd import keys as etcd_keys
from services.config.etcd.store import CompactedError, ConfigStore, Stored
from services.config.intents.version_entries import version_entry
from services.config.state.config_state import ConfigState
from services.config.state.current_state import CurrentState
from services.config.state.records import TenantRecord
from services.config.state.sealed_versions import open_version
from services.config.state.sealing import SealError

_log = logging.getLogger(__name__)
NEWEST_SECONDS = 600
"""Versions made within this time before the newest change are recorded again. A missing entry is at most seconds late,
because edits need the audit service too."""
MAX_TENANTS = 1000
ENTRY_SECONDS = 10.0


class DurableAudit(Protocol):
    """Takes audit entries; `services.common.audit.writer.AuditWriter` implements it."""

    async def append(self, entry: AuditEntry, timeout_seconds: float) -> AuditReceipt:
        """Append an entry and wait until it is durable; raises `Error`."""
        ...


def lately_changed(state: ConfigState) -> list[TenantRecord]:
    """The tenants that changed last, newest first: their versions may not be recorded yet."""
    tenants = [record for record in state.under("tenants/") if isinstance(record, TenantRecord)]
    tenants.sort(key=_changed_seconds, reverse=True)
    since = _changed_seconds(tenants[0]) - NEWEST_SECONDS if tenants else 0
    return [record for record in tenants[:MAX_TENANTS] if _changed_seconds(record) >= since]


class VersionReplay:
    """Appends one entry at a time, each durable before the next, so that it takes no room from new entries."""

    def __init__(self, current: CurrentState, store: ConfigStore, audit: DurableAudit) -> None:
        self._current = current
        self._store = store
        self._audit = audit

    async def run(self) -> None:
        """Wait for etcd's first list, record what is recent, and end."""
        await self._current.live.wait()
        tenants = lately_changed(self._current.state)
        if not tenants:
            return
        since = _changed_seconds(tenants[0]) - NEWEST_SECONDS
        for record in tenants:
            for key, item in sorted((await self._history(record)).items()):
                entry = _entry(record, key, item, since)
                if entry is not None:
                    await self._record_version(entry)

    async def _history(self, record: TenantRecord) -> dict[str, Stored]:
        backoff = Backoff(0.1, 5.0)
        while True:
            try:
                items, _ = await self._store.list(etcd_keys.versions_prefix(record.stored.tenant_uid))
            except (UnavailableError, CompactedError):
                await asyncio.sleep(backoff.next_delay_seconds())
            else:
                return items

    async def _record_version(self, entry: AuditEntry) -> None:
        backoff = Backoff(0.1, 5.0)
        while True:
            try:
                await self._audit.append(entry, ENTRY_SECONDS)
            except UnavailableError:
                await asyncio.sleep(backoff.next_delay_seconds())
            except Error as error:
                _log.error("a config version cannot be recorded again: %s", error.reason)
                return
            else:
                return


def _entry(record: TenantRecord, key: str, item: Stored, since_seconds: int) -> AuditEntry | None:
    try:
        version = stored_pb2.StoredVersion.FromString(item.value)
        if version.create_time.seconds < since_seconds:  # proven: all-recent-versions
            return None
        config, _ = open_version(version, etcd_keys.version_number(key), record.key)
    except (DecodeError, SealError, ValueError) as error:
        _log.error("ALARM: %s is not what was written: %s", key, type(error).__name__)
        return None
    return version_entry(record.stored.tenant_uid, version, config)


def _changed_seconds(record: TenantRecord) -> int:
    return record.stored.update_time.seconds
