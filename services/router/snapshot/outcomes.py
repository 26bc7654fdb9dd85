"""Counts how requests ended, by tenant and config version, for the config service's canaries. Pure."""

from __future__ import annotations

import itertools
from collections import Counter

from tenantry.config.v1 import config_discovery_service_pb2 as pb

_MAX_COUNTS = 100_000
# Some 100 bytes each: a quarter of what a message may be. A report goes with every heartbeat.
_MAX_REPORTED = 10_000


class OutcomeCounts:
    """Counts since the last report; bounded, so that a lost connection costs precision and not memory."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, int, str]] = Counter()

    def count(self, tenant_uid: str, config_version: int, outcome: str) -> None:
        """Count one request."""
        key = (tenant_uid, config_version, outcome)
        if key in self._counts or len(self._counts) < _MAX_COUNTS:
            self._counts[key] += 1

    def take(self) -> pb.OutcomeReport | None:
        """Take the oldest counts, as many as fit into a message; None if there are none."""
        if not self._counts:
            return None
        report = pb.OutcomeReport()
        for key in list(itertools.islice(self._counts, _MAX_REPORTED)):
            tenant_uid, version, outcome = key
            report.counts.add(
                tenant_uid=tenant_uid,
                config_version=version,
                outcome=outcome,
                requests=self._counts.pop(key),
            )
        return report

    def put_back(self, report: pb.OutcomeReport) -> None:
        """Count a report again that may not have arrived: its requests may count twice, but never not at all."""
        for count in report.counts:
            key = (count.tenant_uid, count.config_version, count.outcome)
            self._counts[key] += count.requests
