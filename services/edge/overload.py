"""Bounds on the whole process, and its behaviour at those bounds."""

from __future__ import annotations

from collections.abc import Sequence

from services.edge.listener_specs import ListenerSpec
from services.edge.messages import bootstrap, connections, heap, overload, pack, protobuf, seconds
from services.edge.spec import EdgeLimits

_HEAP = "envoy.resource_monitors.fixed_heap"
_CONNECTIONS = "envoy.resource_monitors.global_downstream_max_connections"
SHORTER_TIMERS = "envoy.overload_actions.reduce_timeouts"
_AT_SHARE_OF_HEAP = {
    "envoy.overload_actions.shrink_heap": 0.9,
    "envoy.overload_actions.stop_accepting_requests": 0.95,
    "envoy.overload_actions.stop_accepting_connections": 0.95,
}

# Shares of the tenant listener's connections. From the first on, timers run out the sooner the fuller it is; from the
# second on they have their least, so that unused connections leave the other half to callers who use theirs.
_SCALED_FROM, _SCALED_TO = 0.25, 0.5
_LEAST_SECONDS = {
    overload.ScaleTimersOverloadActionConfigTimerType.HTTP_DOWNSTREAM_CONNECTION_IDLE: 1.0,
    overload.ScaleTimersOverloadActionConfigTimerType.TRANSPORT_SOCKET_CONNECT: 0.5,
}

_RESETS = {
    # Envoy closes a connection once more than half of so many requests were reset in their first second; Envoy's own
    # default is 500 (CVE-2023-44487, "rapid reset").
    "overload.premature_reset_total_stream_count": 200,
    "overload.premature_reset_min_stream_lifetime_seconds": 1,
    # One connection's flood waits its turn after each request; the default is no limit.
    "http.max_requests_per_io_cycle": 1,
}


def overload_manager(limits: EdgeLimits, listeners: Sequence[ListenerSpec]) -> overload.OverloadManager:
    """Refuse new requests rather than be killed for memory: running ones go on."""
    return overload.OverloadManager(
        refresh_interval=seconds(0.25),
        resource_monitors=[
            overload.ResourceMonitor(
                name=_HEAP, typed_config=pack(heap.FixedHeapConfig(max_heap_size_bytes=limits.heap_bytes))
            ),
            overload.ResourceMonitor(
                name=_CONNECTIONS,
                typed_config=pack(
                    connections.DownstreamConnectionsConfig(
                        max_active_downstream_connections=sum(
                            listener.connections for listener in listeners if not listener.spared
                        )
                    )
                ),
            ),
        ],
        actions=[
            overload.OverloadAction(
                name=action,
                triggers=[overload.Trigger(name=_HEAP, threshold=overload.ThresholdTrigger(value=share))],
            )
            for action, share in _AT_SHARE_OF_HEAP.items()
        ]
        + [_shorter_timers()],
    )


def _shorter_timers() -> overload.OverloadAction:
    """End unused connections and half-done handshakes the sooner, the fuller the tenant listener is.

    Envoy has no bound on the connections of one source; so that a flood of them has to be faster than it is ended.
    """
    scaled = overload.ScaledTrigger(scaling_threshold=_SCALED_FROM, saturation_threshold=_SCALED_TO)
    timers = [
        overload.ScaleTimersOverloadActionConfigScaleTimer(timer=timer, min_timeout=seconds(least))
        for timer, least in _LEAST_SECONDS.items()
    ]
    return overload.OverloadAction(
        name=SHORTER_TIMERS,
        triggers=[overload.Trigger(name=_CONNECTIONS, scaled=scaled)],
        typed_config=pack(overload.ScaleTimersOverloadActionConfig(timer_scale_factors=timers)),
    )


def runtime(listeners: Sequence[ListenerSpec]) -> bootstrap.LayeredRuntime:
    """Envoy's limits that have no place in its typed config."""
    shares = {
        f"envoy.resource_limits.listener.{listener.name}.connection_limit": listener.connections
        for listener in listeners
    }
    values = protobuf.Struct.from_dict({**_RESETS, **shares})
    return bootstrap.LayeredRuntime(layers=[bootstrap.RuntimeLayer(name="limits", static_layer=values)])
