"""The config service's Prometheus metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from services.config.state.current_state import CurrentState


class ConfigMetrics:
    """The metrics of one process."""

    def __init__(self, current: CurrentState) -> None:
        self.registry = CollectorRegistry()
        self.routers = Gauge(
            "tenantry_config_routers", "Routers that follow the config.", registry=self.registry
        )
        self.snapshots = Counter(
            "tenantry_config_snapshots_total",
            "Snapshots sent to routers.",
            ["kind"],
            registry=self.registry,
        )
        self.answers = Counter(
            "tenantry_config_answers_total",
            "Routers' answers to snapshots.",
            ["answer"],
            registry=self.registry,
        )
        self.outcomes = Counter(
            "tenantry_config_reported_requests_total",
            "Requests that routers reported, by how they ended.",
            ["outcome"],
            registry=self.registry,
        )
        self.revisions_without_intent = Counter(
            "tenantry_config_unannounced_revisions_total",
            "Revisions of live keys without a recorded intent: written to etcd around the config service.",
            registry=self.registry,
        )
        revision = Gauge(
            "tenantry_config_revision", "The etcd revision in force here.", registry=self.registry
        )
        revision.set_function(lambda: current.state.revision)
        silence = Gauge(
            "tenantry_config_etcd_silence_seconds",
            "Time since etcd's last sign of life.",
            registry=self.registry,
        )
        silence.set_function(lambda: current.silence_ms / 1000)
