"""Open a `grpc.aio` channel the way every tenantry process does."""

from __future__ import annotations

import grpc

from services.common.rpc.tls import TLSMaterial, require_safe

_OPTIONS: list[tuple[str, int | str]] = [
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Find a peer that comes back within a second; gRPC's default is up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # The caller decides on retries, within its own budget.
    ("grpc.enable_retries", 0),
]


def open_channel(
    target: str, tls: TLSMaterial | None = None, *, max_message_bytes: int = 4 << 20
) -> grpc.aio.Channel:
    """Open a channel between the mesh's own processes. It connects on first use.

    Args:
        target: `unix:/path` or `host:port`.
        tls: required for every target that leaves this host.
        max_message_bytes: the largest message that is received.

    Raises:
        InsecureTargetError: the target leaves this host and there is no TLS material.
    """
    require_safe(target, tls)
    options = [
        *_OPTIONS,
        ("grpc.max_receive_message_length", max_message_bytes),
        # Two channels to one target must not share a connection, or closing one would be an error of the other.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if target.startswith("unix:"):
        return grpc.aio.insecure_channel(target, [*options, ("grpc.default_authority", "localhost")])
    if tls is None:
        return grpc.aio.insecure_channel(target, options)
    return grpc.aio.secure_channel(target, tls.channel_credentials(), options)
