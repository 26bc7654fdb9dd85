"""The Prometheus metrics of pools: read from them when they are scraped, on the thread that serves the scrape.

A pool is named as config names it. Tenants are labelled as in `RequestMetrics`: only so many have series of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.router.metrics import RequestMetrics
from services.router.pool.directory import PoolDirectory


class PoolMetrics(Collector):
    """Queues, places and KV cache by pool; what of them is each tenant's."""

    def __init__(self, pools: PoolDirectory, requests: RequestMetrics) -> None:
        self._pools = pools
        self._requests = requests

    def describe(self) -> Iterable[Metric]:
        """Name the metrics; before there are pools."""
        return self._by_pool(()) + self._by_tenant({}, {})

    def collect(self) -> Iterable[Metric]:
        """Read every pool."""
        pools = sorted(self._pools.pools.items())
        waiting, holding = Counter[str](), Counter[str]()
        for _, pool in pools:
            for tenant_uid, queued, places in pool.tenants:
                label = self._requests.known_label(tenant_uid)
                waiting[label] += queued
                holding[label] += places
        figures = [
            (name, pool.queued, pool.in_flight, pool.places, pool.kv_tokens, pool.kv_capacity_tokens)
            for name, pool in pools
        ]
        return self._by_pool(figures) + self._by_tenant(waiting, holding)

    def _by_pool(self, figures: Iterable[tuple[str, int, int, int, int, int]]) -> list[Metric]:
        families = [
            GaugeMetricFamily(f"tenantry_pool_{name}", text, labels=["pool"])
            for name, text in (
                ("queued_requests", "Requests that wait for the pool."),
                ("in_flight_requests", "Requests that hold a place in the pool."),
                ("places", "Requests that its usable endpoints take at once."),
                ("kv_tokens", "KV cache, in tokens, that requests at its endpoints may fill."),
                ("kv_capacity_tokens", "KV cache, in tokens, of its usable endpoints."),
            )
        ]
        for pool, *values in figures:
            for family, value in zip(families, values, strict=True):
                family.add_metric([pool], value)
        return list(families)

    def _by_tenant(self, waiting: dict[str, int], holding: dict[str, int]) -> list[Metric]:
        queued = GaugeMetricFamily(
            "tenantry_queued_requests", "Requests that wait for a place in a pool.", labels=["tenant"]
        )
        in_flight = GaugeMetricFamily(
            "tenantry_in_flight_requests", "Requests that hold a place in a pool.", labels=["tenant"]
        )
        for family, counts in ((queued, waiting), (in_flight, holding)):
            for tenant, count in sorted(counts.items()):
                family.add_metric([tenant], count)
        return [queued, in_flight]
