"""Counts refused and shed requests for the audit log: one entry a tenant and interval, not one a request.

A durable write for each refusal would let a flood of refusals become a flood of writes. Of each count the entry names
the first requests by their ids, so that a single refusal is found by the request id its caller got. The count is exact.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn

from services.common.audit.entry import AuditEntry, EntryKind
from services.common.clock import Clock
from services.common.errors import Error
from services.router.audit.recorder import AuditSink

_INTERVAL_SECONDS = 1.0
_MAX_COUNTS = 10_000
_MAX_REQUEST_IDS = 16
# At most 60 KiB: the audit service takes 64 KiB of an entry.
_MAX_ENTRY_COUNTS = 64
# What errors say of the rule that refused: a guardrail's id, or the config field of a limit or quota.
_RULE_KEYS = ("rule_id", "limit")


class _Key(NamedTuple):
    tenant_uid: str
    key_id: str
    reason: str
    rule: tuple[tuple[str, str], ...]
    second: int


@dataclass(slots=True)
class _Refused:
    requests: int = 0
    request_ids: list[str] = field(default_factory=list)


class RefusalLog:
    """Counts by tenant, key, reason, rule and second."""

    def __init__(self, sink: AuditSink, clock: Clock) -> None:
        self._sink = sink
        self._clock = clock
        self._counts: dict[_Key, _Refused] = {}

    def count(self, tenant_uid: str, key_id: str, request_id: str, error: Error) -> None:
        """Count one refusal."""
        second = int(self._clock.wall_seconds())
        rule = tuple((name, error.metadata[name]) for name in _RULE_KEYS if name in error.metadata)
        refused = self._counts.setdefault(_Key(tenant_uid, key_id, error.reason, rule, second), _Refused())
        refused.requests += 1
        if len(refused.request_ids) < _MAX_REQUEST_IDS:
            refused.request_ids.append(request_id)
        if len(self._counts) > _MAX_COUNTS:
            self.flush()

    def flush(self) -> None:
        """Queue an entry for each tenant with refusals, or several where one would be too large."""
        counts, self._counts = self._counts, {}
        by_tenant: dict[str, list[dict[str, object]]] = {}
        for key in sorted(counts):
            by_tenant.setdefault(key.tenant_uid, []).append(
                {
                    "key_id": key.key_id,
                    "reason": key.reason,
                    **dict(key.rule),
                    "unix_seconds": key.second,
                    "requests": counts[key].requests,
                    "request_ids": counts[key].request_ids,
                }
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
