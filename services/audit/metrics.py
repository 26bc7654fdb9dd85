"""The audit service's Prometheus metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.common.metrics import LATENCY_BUCKETS_SECONDS


class AuditMetrics:
    """Metrics of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.entries = Counter(
            "tenantry_audit_entries_total",
            "Entries settled, by kind and result.",
            ["kind", "result"],
            registry=self.registry,
        )
        self.batch_entries = Histogram(
            "tenantry_audit_batch_entries",
            "Entries made durable by one fdatasync.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=self.registry,
        )
        self.commit_seconds = Histogram(
            "tenantry_audit_commit_seconds",
            "Time to seal, write and sync a batch.",
            buckets=LATENCY_BUCKETS_SECONDS,
            registry=self.registry,
        )
        self.writers = Counter(
            "tenantry_audit_sessions_total", "Append streams opened.", registry=self.registry
        )
        self.quarantined = Gauge(
            "tenantry_audit_quarantined_logs",
            "Logs found damaged since the start. Entries of their tenants are refused.",
            registry=self.registry,
        )

    def batch(self, entries: int, seconds: float) -> None:
        """Count a durable batch of so many entries, and how long it took."""
        self.batch_entries.observe(entries)
        self.commit_seconds.observe(seconds)
