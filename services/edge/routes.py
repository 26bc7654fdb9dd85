"""Envoy's routes and what each adds to the filters: made from a door's passages, one route a passage."""

from __future__ import annotations

from services.edge.filters import BUFFER
from services.edge.keys import KEY_HOLDER, demand_key_holder, match
from services.edge.listener_specs import Door, Passage
from services.edge.messages import buffer, pack, protobuf, route, seconds


def route_table(door: Door) -> route.RouteConfiguration:
    """Everything a door leads to; what it does not name is UNIMPLEMENTED."""
    return route.RouteConfiguration(
        name=door.name,
        virtual_hosts=[
            route.VirtualHost(
                name="all", domains=["*"], routes=[_route(passage) for passage in door.passages]
            )
        ],
    )


def _route(passage: Passage) -> route.Route:
    action = route.RouteAction(
        cluster=passage.service,
        # Counts only from the request's end, and would end streams.
        timeout=seconds(0),
        idle_timeout=seconds(passage.silent_seconds),
        max_stream_duration=None if passage.lasts_seconds is None else _at_most(passage.lasts_seconds),
    )
    return route.Route(match=match(passage), route=action, typed_per_filter_config=_for_filters(passage))


def _at_most(longest_seconds: float) -> route.RouteActionMaxStreamDuration:
    longest = seconds(longest_seconds)
    # The second keeps a caller's shorter deadline: Envoy would write the first over it.
    return route.RouteActionMaxStreamDuration(max_stream_duration=longest, grpc_timeout_header_max=longest)


def _for_filters(passage: Passage) -> dict[str, protobuf.Any]:
    added: dict[str, protobuf.Any] = {}
    if passage.issuer is not None:
        added[KEY_HOLDER] = pack(demand_key_holder(passage.issuer))
    added[BUFFER] = pack(_held(passage.whole_request_bytes))
    return added


def _held(most_bytes: int | None) -> buffer.BufferPerRoute:
    if most_bytes is None:
        return buffer.BufferPerRoute(disabled=True)
    return buffer.BufferPerRoute(buffer=buffer.Buffer(max_request_bytes=most_bytes))
