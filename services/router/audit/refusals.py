"""Counts refused and shed requests for the audit log: one entry a tenant and interval, not one a request.

A durable write for each refusal would let a flood of refusals become a flood of writes.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import NoReturn

from services.common.audit.entry import AuditEntry, EntryKind
from services.common.clock import Clock
from services.router.audit.audit_trail import AuditSink

_INTERVAL_SECONDS = 1.0
_MAX_COUNTS = 10_000
# About 40 KiB: the audit service takes 64 KiB of an entry.
_MAX_ENTRY_COUNTS = 256


class RefusalLog:
    """Counts by tenant, key, reason and second."""

    def __init__(self, sink: AuditSink, clock: Clock) -> None:
        self._sink = sink
        self._clock = clock
        self._counts: Counter[tuple[str, str, str, int]] = Counter()

    def count(self, tenant_uid: str, key_id: str, reason: str) -> None:
        """Count one refusal."""
        second = int(self._clock.wall_seconds())
        self._counts[tenant_uid, key_id, reason, second] += 1
        if len(self._counts) > _MAX_COUNTS:
            self.flush()

    def flush(self) -> None:
        """Queue an entry for each tenant with refusals, or several where one would be too large."""
        counts, self._counts = self._counts, Counter()
        by_tenant: dict[str, list[dict[str, object]]] = {}
        for (tenant_uid, key_id, reason, second), requests in sorted(counts.items()):
            by_tenant.setdefault(tenant_uid, []).append(
                {"key_id": key_id, "reason": reason, "unix_seconds": second, "requests": requests}
            )
        for tenant_uid, refused in by_tenant.items():
            for start in range(0, len(refused), _MAX_ENTRY_COUNTS):
                part = refused[start : start + _MAX_ENTRY_COUNTS]
                self._sink.append_soon(AuditEntry(tenant_uid, EntryKind.REFUSED, {"refused": part}))

    async def run(self) -> NoReturn:
        """Flush every second, for as long as the process lives."""
        while True:
            await asyncio.sleep(_INTERVAL_SECONDS)
            self.flush()
