"""The router's Prometheus metrics.

The tenant label is a tenant_uid out of the snapshot, never what a client sent: callers cannot make series.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.common.metrics import LATENCY_BUCKETS_SECONDS
from services.router.exchange import Exchange


class RouterMetrics:
    """Every metric of one router process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "tenantry_requests_total",
            "Requests by how they ended: ok, or the reason of the error.",
            ["tenant", "outcome"],
            registry=registry,
        )
        self._input_tokens = Counter(
            "tenantry_input_tokens_total", "Tokens of dispatched prompts.", ["tenant"], registry=registry
        )
        self._output_tokens = Counter(
            "tenantry_output_tokens_total", "Tokens generated.", ["tenant"], registry=registry
        )
        self._first_token = Histogram(
            "tenantry_first_token_seconds",
            "From arrival to the first token.",
            ["tenant"],
            buckets=LATENCY_BUCKETS_SECONDS,
            registry=registry,
        )
        self._per_token = Histogram(
            "tenantry_per_token_seconds",
            "Mean time between a request's tokens, after the first.",
            ["tenant"],
            buckets=LATENCY_BUCKETS_SECONDS,
            registry=registry,
        )
        self._unknown = Counter(
            "tenantry_unidentified_requests_total",
            "Requests refused before their tenant was known, by reason.",
            ["outcome"],
            registry=registry,
        )
        self._adapter_misses = Counter(
            "tenantry_adapter_misses_total", "Adapters a server was found without.", registry=registry
        )
        self._adapters_sent = Counter(
            "tenantry_adapters_sent_total", "Times adapter weights were sent.", registry=registry
        )
        self._adapter_bytes = Counter(
            "tenantry_adapter_bytes_total", "Bytes of adapter weights sent.", registry=registry
        )
        self._revision = Gauge("tenantry_config_revision", "The config revision in force.", registry=registry)
        self._refused_snapshots = Counter(
            "tenantry_snapshots_refused_total", "Snapshots answered with a NACK.", registry=registry
        )

    def ended(self, exchange: Exchange, outcome: str) -> None:
        """A request of a known tenant ended."""
        tenant = exchange.caller.tenant.tenant_uid
        self._requests.labels(tenant, outcome).inc()
        if exchange.dispatched_at is None or exchange.cost is None:
            return
        self._input_tokens.labels(tenant).inc(exchange.cost.input_tokens)
        self._output_tokens.labels(tenant).inc(exchange.output_tokens)
        if exchange.first_token_at is None:
            return
        self._first_token.labels(tenant).observe(exchange.first_token_at - exchange.arrived_at)
        if exchange.last_token_at is not None and exchange.output_tokens > 1:
            mean = (exchange.last_token_at - exchange.first_token_at) / (exchange.output_tokens - 1)
            self._per_token.labels(tenant).observe(mean)

    def listed(self, tenant_uid: str, outcome: str) -> None:
        """A listing of a known tenant ended."""
        self._requests.labels(tenant_uid, outcome).inc()

    def unidentified(self, outcome: str) -> None:
        """A request ended before its tenant was known."""
        self._unknown.labels(outcome).inc()

    def adapter_miss(self) -> None:
        """A server did not hold an adapter."""
        self._adapter_misses.inc()

    def adapter_sent(self, size_bytes: int) -> None:
        """Weights were sent."""
        self._adapters_sent.inc()
        self._adapter_bytes.inc(size_bytes)

    def snapshot_applied(self, revision: int) -> None:
        """A snapshot is in force."""
        self._revision.set(revision)

    def snapshot_refused(self) -> None:
        """A snapshot was refused."""
        self._refused_snapshots.inc()
