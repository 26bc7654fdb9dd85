"""The pieces of Envoy's API that the edge uses, under short names. The only owner of envoy-data-plane."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import envoy_data_plane.envoy.config.accesslog.v3 as accesslog
import envoy_data_plane.envoy.config.bootstrap.v3 as bootstrap
import envoy_data_plane.envoy.config.cluster.v3 as cluster
import envoy_data_plane.envoy.config.common.mutation_rules.v3 as mutation
import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.config.endpoint.v3 as endpoint
import envoy_data_plane.envoy.config.listener.v3 as listener
import envoy_data_plane.envoy.config.overload.v3 as overload
import envoy_data_plane.envoy.config.rbac.v3 as rbac
import envoy_data_plane.envoy.config.route.v3 as route
import envoy_data_plane.envoy.extensions.access_loggers.file.v3 as file_log
import envoy_data_plane.envoy.extensions.access_loggers.stream.v3 as stream_log
import envoy_data_plane.envoy.extensions.common.ratelimit.v3 as ratelimit
import envoy_data_plane.envoy.extensions.filters.http.buffer.v3 as buffer
import envoy_data_plane.envoy.extensions.filters.http.jwt_authn.v3 as jwt
import envoy_data_plane.envoy.extensions.filters.http.local_ratelimit.v3 as local_limit
import envoy_data_plane.envoy.extensions.filters.http.lua.v3 as lua
import envoy_data_plane.envoy.extensions.filters.http.rbac.v3 as http_rbac
import envoy_data_plane.envoy.extensions.filters.http.router.v3 as router_filter
import envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 as hcm
import envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation.v3 as early
import envoy_data_plane.envoy.extensions.request_id.uuid.v3 as request_ids
import envoy_data_plane.envoy.extensions.resource_monitors.downstream_connections.v3 as connections
import envoy_data_plane.envoy.extensions.resource_monitors.fixed_heap.v3 as heap
import envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 as tls
import envoy_data_plane.envoy.extensions.upstreams.http.v3 as upstream
import envoy_data_plane.envoy.type.matcher.v3 as matcher
import envoy_data_plane.envoy.type.metadata.v3 as metadata
import envoy_data_plane.envoy.type.v3 as kinds
from envoy_data_plane.google import protobuf

from services.edge.addresses import Address, parse_address
from services.edge.spec import Source

pack = protobuf.Any.pack


BUFFER_BYTES = 32 << 10
"""Read ahead of a slow reader, for each connection and direction."""


_OWNER_ONLY = 0o600


def address(at: Address) -> core.Address:
    """Where to connect to."""
    if at.path:
        return core.Address(pipe=core.Pipe(path=at.path))
    return port(at.host, at.port)


def bound_address(text: str) -> core.Address:
    """Where to listen; a Unix socket gets mode 0600."""
    at = parse_address(text)
    if at.path:
        return core.Address(pipe=core.Pipe(path=at.path, mode=_OWNER_ONLY))
    return port("127.0.0.1" if at.host == "localhost" else at.host, at.port)


def port(host: str, number: int) -> core.Address:
    """A TCP port of a host."""
    return core.Address(socket_address=core.SocketAddress(address=host, port_value=number))


def data(source: Source) -> core.DataSource:
    """A text that Envoy reads from a file, or that stands in the config."""
    if source.file is not None:
        return core.DataSource(filename=str(source.file))
    return core.DataSource(inline_string=source.inline)


def to_json_names(message: Any) -> dict[str, Any]:
    """A message as proto3 JSON, each field under its own name in the proto file.

    betterproto's own spelling of names is wrong for those with a digit, such as `consecutive_5xx`.
    """
    plain: dict[str, Any] = message.to_dict(casing=lambda name: name)
    return plain


def seconds(value: float) -> timedelta:
    """Envoy's durations."""
    return timedelta(seconds=value)


def percent(value: float) -> kinds.Percent:
    """A share of 100."""
    return kinds.Percent(value=value)


__all__ = [
    "BUFFER_BYTES",
    "accesslog",
    "address",
    "bootstrap",
    "bound_address",
    "buffer",
    "cluster",
    "connections",
    "core",
    "data",
    "early",
    "endpoint",
    "file_log",
    "hcm",
    "heap",
    "http_rbac",
    "jwt",
    "kinds",
    "listener",
    "local_limit",
    "lua",
    "matcher",
    "metadata",
    "mutation",
    "overload",
    "pack",
    "percent",
    "port",
    "protobuf",
    "ratelimit",
    "rbac",
    "request_ids",
    "route",
    "router_filter",
    "seconds",
    "stream_log",
    "tls",
    "to_json_names",
    "upstream",
]
