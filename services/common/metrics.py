"""Prometheus metrics: one registry a process, served over loopback HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, disable_created_metrics, start_http_server

# Seconds; from a millisecond to a minute, fit for first tokens and whole answers.
LATENCY_BUCKETS_SECONDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip


@contextmanager
def serve_metrics(registry: CollectorRegistry, address: str | None) -> Iterator[None]:
    """Serve a registry at `host:port` while the context lasts; nothing for None."""
    if address is None:
        yield
        return
    host, port = address.rsplit(":", 1)
    # A quarter of the lines would be when each series began, which nobody asks.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    server, thread = start_http_server(int(port), host, registry)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=2)
