"""The Prometheus metrics of the config in force."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class ConfigMetrics:
    """The metrics of snapshots of one router process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._revision = Gauge("tenantry_config_revision", "The config revision in force.", registry=registry)
        self._unusable_models = Gauge(
            "tenantry_unusable_models",
            "Base models in force whose tokeniser or chat template this router cannot use.",
            registry=registry,
        )
        self._refused_snapshots = Counter(
            "tenantry_snapshots_refused_total", "Snapshots answered with a NACK.", registry=registry
        )

    def snapshot_applied(self, revision: int) -> None:
        """Record the revision in force."""
        self._revision.set(revision)

    def models_unusable(self, count: int) -> None:
        """Record how many base models of the snapshot in force cannot be used here."""
        self._unusable_models.set(count)

    def snapshot_refused(self) -> None:
        """Count a snapshot that was refused."""
        self._refused_snapshots.inc()
