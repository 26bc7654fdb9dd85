"""Counts how requests ended, by tenant and config version, for the config service's canaries."""

from __future__ import annotations

from collections import Counter

from tenantry.config.v1 import config_discovery_service_pb2 as pb

_MAX_COUNTS = 100_000


class OutcomeCounts:
    """Counts since the last report; bounded, so that being out of touch costs precision and not memory."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, int, str]] = Counter()

    def count(self, tenant_uid: str, config_version: int, outcome: str) -> None:
        """Count one request."""
        key = (tenant_uid, config_version, outcome)
        if key in self._counts or len(self._counts) < _MAX_COUNTS:
            self._counts[key] += 1

    def take(self) -> pb.OutcomeReport | None:
        """What was counted since the last call, or None for nothing."""
        if not self._counts:
            return None
        counts, self._counts = self._counts, Counter()
        return pb.OutcomeReport(
            counts=[
                pb.OutcomeCount(
                    tenant_uid=tenant_uid, config_version=version, outcome=outcome, requests=requests
                )
                for (tenant_uid, version, outcome), requests in counts.items()
            ]
        )
