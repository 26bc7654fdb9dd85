"""Build a `grpc.aio` server the way every tenantry process does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.common.rpc.health import HealthBoard
from services.common.rpc.interceptors import ErrorInterceptor
from services.common.rpc.tls import TLSMaterial, require_safe

DEFAULT_MAX_MESSAGE_BYTES = 4 << 20

_UNREAD_BYTES = 16 << 10
"""Taken of each request before its method reads it; the rest waits at the sender."""

# gRPC's bitsets of compression algorithms: identity alone; identity, deflate and gzip.
_UNCOMPRESSED, _EVERY_COMPRESSION = 0b1, 0b111

Register = Callable[[grpc.aio.Server], None]


def build_server(
    *,
    listen: Sequence[str],
    register: Register,
    service_names: Sequence[str],
    health: HealthBoard,
    tls: TLSMaterial | None = None,
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
    max_concurrent_rpcs: int | None = None,
    compressed: bool = False,
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
) -> grpc.aio.Server:
    """Build a server with error mapping, health, reflection and bounds. The caller starts and stops it.

    Args:
        listen: targets to bind, `unix:/path` or `host:port`.
        register: adds the services.
        service_names: full names shown by reflection.
        health: published as `grpc.health.v1`.
        tls: required for every target that leaves this host.
        max_message_bytes: the largest message that is received.
        max_concurrent_rpcs: calls of the services beyond it are answered RESOURCE_EXHAUSTED; None for no bound. Health
            checks are always answered, and reflection has a bound of its own.
        compressed: whether compressed requests are taken; otherwise UNIMPLEMENTED. gRPC stops decompressing above
            `max_message_bytes`, but a few kilobytes may come to that much: only for methods that read a request once
            its caller is known.
        interceptors: run inside the error mapping, in order.

    Raises:
        InsecureTargetError: a target leaves this host and there is no TLS material.
    """
    server = grpc.aio.server(
        interceptors=[ErrorInterceptor(max_concurrent_rpcs), *interceptors],
        # No bound of gRPC's own: it would refuse health checks, too.
        options=[
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_metadata_size", 16 << 10),
            (
                "grpc.compression_enabled_algorithms_bitset",
                _EVERY_COMPRESSION if compressed else _UNCOMPRESSED,
            ),
            # A fixed window: gRPC's own would grow with the bandwidth, for requests that are not read yet as well.
            ("grpc.http2.bdp_probe", 0),
            ("grpc.http2.lookahead_bytes", _UNREAD_BYTES),
            ("grpc.so_reuseport", 0),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ],
    )
    register(server)
    health_pb2_grpc.add_HealthServicer_to_server(health.servicer, server)
    reflection.enable_server_reflection(
        [*service_names, "grpc.health.v1.Health", reflection.SERVICE_NAME], server
    )
    for target in listen:
        require_safe(target, tls)
        if tls is not None and not target.startswith("unix:"):
            server.add_secure_port(target, tls.server_credentials())
        else:
            server.add_insecure_port(target)
    return server
