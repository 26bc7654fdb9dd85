"""The Prometheus metrics of requests, and of the adapters they need.

The tenant label is a tenant_uid from the snapshot, never what a client sent, so that callers cannot make series. A
tenant has at most 60 series, and the process that serves requests also writes each scrape, so that only so many tenants
have their own. The others are counted together, as `other`, until some tenants are deleted.
"""

from __future__ import annotations

from collections.abc import Container
from contextlib import suppress

from prometheus_client import CollectorRegistry, Counter, Histogram, Summary

from services.router.pool.demand import INPUT_TOKEN_SERVICE, OUTPUT_TOKEN_SERVICE
from services.router.stages import Answered, Stage, admitted_of

OTHER = "other"
"""The label of the tenants that have no series of their own."""
MAX_TENANTS = 1000
# Each bucket is a series of each tenant.
_FIRST_TOKEN_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_PER_TOKEN_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


class RequestMetrics:
    """The metrics of requests of one router process."""

    def __init__(self, registry: CollectorRegistry, max_tenants: int = MAX_TENANTS) -> None:
        self._max_tenants = max_tenants
        self._refused_by: dict[str, set[tuple[str, str]]] = {}
        """Limit and mode of the refusals counted so far, by tenant."""
        self._outcomes: dict[str, set[str]] = {}
        """The outcomes counted so far, of each tenant that has series of its own."""
        self._requests = Counter(
            "tenantry_requests_total",
            "Requests by how they ended: ok, or the reason of the error.",
            ["tenant", "outcome"],
            registry=registry,
        )
        self._input_tokens = Counter(
            "tenantry_input_tokens_total",
            "Tokens of prompts, as far as they are charged.",
            ["tenant"],
            registry=registry,
        )
        self._output_tokens = Counter(
            "tenantry_output_tokens_total", "Tokens generated.", ["tenant"], registry=registry
        )
        self._service = Counter(
            "tenantry_service_total",
            "Service given, as fair queues count it: input tokens once, output tokens twice.",
            ["tenant"],
            registry=registry,
        )
        self._spent = Counter(
            "tenantry_spent_micro_units_total",
            "What answers cost by their tenant's prices, in micro-units of the currency.",
            ["tenant"],
            registry=registry,
        )
        self._limits = Counter(
            "tenantry_limit_refusals_total",
            "Requests that a limit refused (mode enforced), or would have refused (mode shadow).",
            ["tenant", "limit", "mode"],
            registry=registry,
        )
        self._queue_wait = Summary(
            "tenantry_queue_seconds",
            "How long requests that got a place in a pool waited for it.",
            ["tenant"],
            registry=registry,
        )
        self._first_token = Histogram(
            "tenantry_first_token_seconds",
            "From arrival to the first token.",
            ["tenant"],
            buckets=_FIRST_TOKEN_SECONDS,
            registry=registry,
        )
        self._per_token = Histogram(
            "tenantry_per_token_seconds",
            "Mean time between a request's tokens, after the first.",
            ["tenant"],
            buckets=_PER_TOKEN_SECONDS,
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
        self._foreign_answers = Counter(
            "tenantry_foreign_answers_total",
            "Answers of model servers with the id of another request. Any is an alarm.",
            registry=registry,
        )
        self._adapters_sent = Counter(
            "tenantry_adapters_sent_total", "Times adapter weights were sent.", registry=registry
        )
        self._adapter_bytes = Counter(
            "tenantry_adapter_bytes_total", "Bytes of adapter weights sent.", registry=registry
        )

    def ended(self, reached: Stage, outcome: str) -> None:
        """Count a request that ended, and what it used by the stage it reached."""
        tenant = self._count(reached.tenant.tenant_uid, outcome)
        admitted = admitted_of(reached)
        if admitted is None or not admitted.generation.charged_input_tokens:
            return
        generation = admitted.generation
        self._input_tokens.labels(tenant).inc(generation.charged_input_tokens)
        self._output_tokens.labels(tenant).inc(generation.output_tokens)
        self._service.labels(tenant).inc(
            INPUT_TOKEN_SERVICE * generation.charged_input_tokens
            + OUTPUT_TOKEN_SERVICE * generation.output_tokens
        )
        price = admitted.shaped.shape.price
        if price is not None:
            cost = price.micro_units(generation.charged_input_tokens, generation.output_tokens)
            self._spent.labels(tenant).inc(cost)
        if generation.first_token_at is None:
            return
        arrived_at = admitted.shaped.identified.arrived_at
        self._first_token.labels(tenant).observe(generation.first_token_at - arrived_at)
        if isinstance(reached, Answered) and generation.output_tokens > 1:
            mean = (reached.last_token_at - generation.first_token_at) / (generation.output_tokens - 1)
            self._per_token.labels(tenant).observe(mean)

    def listed(self, tenant_uid: str, outcome: str) -> None:
        """Count a listing of a known tenant that ended."""
        self._count(tenant_uid, outcome)

    def keep_only(self, tenant_uids: Container[str]) -> None:
        """Forget the series of tenants that are gone."""
        for tenant in [uid for uid in self._outcomes if uid not in tenant_uids]:
            for outcome in self._outcomes.pop(tenant):
                self._requests.remove(tenant, outcome)
            for limit, mode in self._refused_by.pop(tenant, ()):
                self._limits.remove(tenant, limit, mode)
            for metric in (
                self._input_tokens,
                self._output_tokens,
                self._service,
                self._spent,
                self._queue_wait,
                self._first_token,
                self._per_token,
            ):
                with suppress(KeyError):
                    metric.remove(tenant)

    def queued(self, tenant_uid: str, seconds: float) -> None:
        """A request got its place in a pool after so long."""
        self._queue_wait.labels(self._label(tenant_uid)).observe(seconds)

    def limit_refused(self, tenant_uid: str, limit: str) -> None:
        """Count a request that a limit refused."""
        self._count_limit(tenant_uid, limit, "enforced")

    def limit_shadowed(self, tenant_uid: str, limit: str) -> None:
        """Count a request that a limit in shadow mode would have refused."""
        self._count_limit(tenant_uid, limit, "shadow")

    def known_label(self, tenant_uid: str) -> str:
        """The tenant's label: its uid if it has series of its own. For scrapes, which run on another thread."""
        return tenant_uid if tenant_uid in self._outcomes else OTHER

    def _label(self, tenant_uid: str) -> str:
        """The tenant's label: its uid if it has series of its own or there is room for them."""
        if tenant_uid not in self._outcomes:
            if len(self._outcomes) >= self._max_tenants:
                return OTHER
            self._outcomes[tenant_uid] = set()
        return tenant_uid

    def _count(self, tenant_uid: str, outcome: str) -> str:
        """Count a request; returns the tenant's label."""
        label = self._label(tenant_uid)
        self._requests.labels(label, outcome).inc()
        if label is not OTHER:
            self._outcomes[label].add(outcome)
        return label

    def _count_limit(self, tenant_uid: str, limit: str, mode: str) -> None:
        label = self._label(tenant_uid)
        self._limits.labels(label, limit, mode).inc()
        if label is not OTHER:
            self._refused_by.setdefault(label, set()).add((limit, mode))

    def unidentified(self, outcome: str) -> None:
        """Count a request that ended before its tenant was known."""
        self._unknown.labels(outcome).inc()

    def adapter_miss(self) -> None:
        """Count an adapter that a server did not hold."""
        self._adapter_misses.inc()

    def foreign_answer(self) -> None:
        """Count an answer with the id of another request."""
        self._foreign_answers.inc()

    def adapter_sent(self, size_bytes: int) -> None:
        """Count weights that were sent."""
        self._adapters_sent.inc()
        self._adapter_bytes.inc(size_bytes)
