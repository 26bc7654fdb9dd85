"""Envoy's routes, and the settings each adds to the filters."""

from __future__ import annotations

from services.edge.filters import BUFFER
from services.edge.keys import KEY_HOLDER, demand_key_holder, match
from services.edge.listener_specs import ListenerSpec, RouteSpec
from services.edge.messages import buffer, pack, protobuf, route, seconds


def route_table(listener: ListenerSpec) -> route.RouteConfiguration:
    """All routes of a listener; any other path is UNIMPLEMENTED."""
    return route.RouteConfiguration(
        name=listener.name,
        virtual_hosts=[
            route.VirtualHost(name="all", domains=["*"], routes=[_route(spec) for spec in listener.routes])
        ],
    )


def _route(spec: RouteSpec) -> route.Route:
    action = route.RouteAction(
        cluster=spec.service,
        # Counts only from the request's end, and would end streams.
        timeout=seconds(0),
        idle_timeout=seconds(spec.silent_seconds),
        max_stream_duration=None if spec.lasts_seconds is None else _at_most(spec.lasts_seconds),
    )
    return route.Route(match=match(spec), route=action, typed_per_filter_config=_for_filters(spec))


def _at_most(longest_seconds: float) -> route.RouteActionMaxStreamDuration:
    longest = seconds(longest_seconds)
    # The second keeps a caller's shorter deadline: Envoy would write the first over it.
    return route.RouteActionMaxStreamDuration(max_stream_duration=longest, grpc_timeout_header_max=longest)


def _for_filters(spec: RouteSpec) -> dict[str, protobuf.Any]:
    added: dict[str, protobuf.Any] = {}
    if spec.issuer is not None:
        added[KEY_HOLDER] = pack(demand_key_holder(spec.issuer))
    added[BUFFER] = pack(_held(spec.whole_request_bytes))
    return added


def _held(most_bytes: int | None) -> buffer.BufferPerRoute:
    if most_bytes is None:
        return buffer.BufferPerRoute(disabled=True)
    return buffer.BufferPerRoute(buffer=buffer.Buffer(max_request_bytes=most_bytes))
