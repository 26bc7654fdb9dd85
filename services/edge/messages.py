"""The pieces of Envoy's API that the edge uses, under short names. The owner of the package envoy-data-plane."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

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
import envoy_data_plane.envoy.extensions.common.ratelimit.v3 as ratelimit
import envoy_data_plane.envoy.extensions.filters.http.buffer.v3 as buffer
import envoy_data_plane.envoy.extensions.filters.http.jwt_authn.v3 as jwt
import envoy_data_plane.envoy.extensions.filters.http.local_ratelimit.v3 as local_limit
import envoy_data_plane.envoy.extensions.filters.http.rbac.v3 as http_rbac
import envoy_data_plane.envoy.extensions.filters.http.router.v3 as router_filter
import envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 as hcm
import envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation.v3 as early
import envoy_data_plane.envoy.extensions.resource_monitors.downstream_connections.v3 as connections
import envoy_data_plane.envoy.extensions.resource_monitors.fixed_heap.v3 as heap
import envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 as tls
import envoy_data_plane.envoy.extensions.upstreams.http.v3 as upstream
import envoy_data_plane.envoy.type.matcher.v3 as matcher
import envoy_data_plane.envoy.type.metadata.v3 as metadata
import envoy_data_plane.envoy.type.v3 as kinds
from envoy_data_plane.google import protobuf

pack = protobuf.Any.pack


BUFFER_BYTES = 32 << 10
"""What the edge reads ahead of whoever is slow, a connection and direction."""


def pipe(path: Path) -> core.Address:
    """A Unix socket."""
    return core.Address(pipe=core.Pipe(path=str(path)))


def loopback(port: int) -> core.Address:
    """A port on this host only."""
    return core.Address(socket_address=core.SocketAddress(address="127.0.0.1", port_value=port))


def seconds(value: float) -> timedelta:
    """Envoy's durations."""
    return timedelta(seconds=value)


def percent(value: float) -> kinds.Percent:
    """A share of 100."""
    return kinds.Percent(value=value)


__all__ = [
    "BUFFER_BYTES",
    "accesslog",
    "bootstrap",
    "buffer",
    "cluster",
    "connections",
    "core",
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
    "loopback",
    "matcher",
    "metadata",
    "mutation",
    "overload",
    "pack",
    "percent",
    "pipe",
    "protobuf",
    "ratelimit",
    "rbac",
    "route",
    "router_filter",
    "seconds",
    "tls",
    "upstream",
]
