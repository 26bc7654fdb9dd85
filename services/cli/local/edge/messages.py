"""The pieces of Envoy's API that the edge uses, under short names. The owner of the package envoy-data-plane."""

from __future__ import annotations

from pathlib import Path

import envoy_data_plane.envoy.config.accesslog.v3 as accesslog
import envoy_data_plane.envoy.config.bootstrap.v3 as bootstrap
import envoy_data_plane.envoy.config.cluster.v3 as cluster
import envoy_data_plane.envoy.config.common.mutation_rules.v3 as mutation
import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.config.endpoint.v3 as endpoint
import envoy_data_plane.envoy.config.listener.v3 as listener
import envoy_data_plane.envoy.config.overload.v3 as overload
import envoy_data_plane.envoy.config.route.v3 as route
import envoy_data_plane.envoy.extensions.access_loggers.file.v3 as file_log
import envoy_data_plane.envoy.extensions.filters.http.jwt_authn.v3 as jwt
import envoy_data_plane.envoy.extensions.filters.http.router.v3 as router_filter
import envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 as hcm
import envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation.v3 as early
import envoy_data_plane.envoy.extensions.resource_monitors.downstream_connections.v3 as connections
import envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 as tls
import envoy_data_plane.envoy.extensions.upstreams.http.v3 as upstream
import envoy_data_plane.envoy.type.matcher.v3 as matcher
import envoy_data_plane.envoy.type.v3 as kinds
from envoy_data_plane.google import protobuf

pack = protobuf.Any.pack


def pipe(path: Path) -> core.Address:
    """A Unix socket."""
    return core.Address(pipe=core.Pipe(path=str(path)))


def loopback(port: int) -> core.Address:
    """A port on this host only."""
    return core.Address(socket_address=core.SocketAddress(address="127.0.0.1", port_value=port))


def percent(value: float) -> kinds.Percent:
    """A share of 100."""
    return kinds.Percent(value=value)


__all__ = [
    "accesslog",
    "bootstrap",
    "cluster",
    "connections",
    "core",
    "early",
    "endpoint",
    "file_log",
    "hcm",
    "jwt",
    "listener",
    "loopback",
    "matcher",
    "mutation",
    "overload",
    "pack",
    "percent",
    "pipe",
    "protobuf",
    "route",
    "router_filter",
    "tls",
    "upstream",
]
