"""Where the edge sends requests: our own services, over HTTP/2 on Unix sockets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from services.edge.messages import (
    BUFFER_BYTES,
    cluster,
    core,
    endpoint,
    pack,
    percent,
    pipe,
    seconds,
    upstream,
)

_STREAM_WINDOW_BYTES = 64 << 10
# As much as all of a service's streams together: callers that do not read leave room for the others' answers on the
# connection they share.
_CONNECTION_WINDOW_BYTES = 4096 * _STREAM_WINDOW_BYTES
_MAX_REQUESTS = 8192


def service_cluster(name: str, sockets: Sequence[Path]) -> cluster.Cluster:
    """One service's processes, taking turns; a process that fails is left out for a moment, never all of them."""
    return cluster.Cluster(
        name=name,
        type=cluster.ClusterDiscoveryType.STATIC,
        connect_timeout=seconds(1),
        lb_policy=cluster.ClusterLbPolicy.ROUND_ROBIN,
        per_connection_buffer_limit_bytes=BUFFER_BYTES,
        # A process that was left out gets nothing, even when most are: callers hear UNAVAILABLE instead of waiting.
        common_lb_config=cluster.ClusterCommonLbConfig(healthy_panic_threshold=percent(0)),
        outlier_detection=_ejection() if len(sockets) > 1 else None,
        load_assignment=endpoint.ClusterLoadAssignment(
            cluster_name=name,
            endpoints=[
                endpoint.LocalityLbEndpoints(
                    lb_endpoints=[
                        endpoint.LbEndpoint(endpoint=endpoint.Endpoint(address=pipe(path)))
                        for path in sockets
                    ]
                )
            ],
        ),
        typed_extension_protocol_options={
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": pack(
                upstream.HttpProtocolOptions(
                    explicit_http_config=upstream.HttpProtocolOptionsExplicitHttpConfig(
                        http2_protocol_options=core.Http2ProtocolOptions(
                            initial_stream_window_size=_STREAM_WINDOW_BYTES,
                            initial_connection_window_size=_CONNECTION_WINDOW_BYTES,
                            connection_keepalive=core.KeepaliveSettings(
                                interval=seconds(10), timeout=seconds(5)
                            ),
                        )
                    )
                )
            )
        },
        circuit_breakers=cluster.CircuitBreakers(
            thresholds=[
                cluster.CircuitBreakersThresholds(max_requests=_MAX_REQUESTS, max_pending_requests=1024)
            ]
        ),
    )


def _ejection() -> cluster.OutlierDetection:
    """Leave a process out after three times in a row that the edge did not reach it.

    Never for what it answered: to Envoy a gRPC status of UNAVAILABLE is a 503, and one tenant's refusals would take
    the router from all others.
    """
    return cluster.OutlierDetection(
        split_external_local_origin_errors=True,
        consecutive_local_origin_failure=3,
        enforcing_consecutive_local_origin_failure=100,
        enforcing_local_origin_success_rate=0,
        enforcing_consecutive_gateway_failure=0,
        enforcing_consecutive_5xx=0,
        enforcing_success_rate=0,
        interval=seconds(0.5),
        base_ejection_time=seconds(1),
        max_ejection_time=seconds(10),
        max_ejection_percent=100,
    )
