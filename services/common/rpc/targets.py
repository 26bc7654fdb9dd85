"""Targets of gRPC peers: `unix:/path` on one host, `host:port` otherwise."""

from __future__ import annotations

import ipaddress

UNIX_PREFIX = "unix:"
# sockaddr_un.sun_path holds 108 bytes, including the NUL at its end.
MAX_UNIX_PATH_BYTES = 107


def is_local(target: str) -> bool:
    """Whether a target stays on this host: a Unix socket or a loopback address."""
    if target.startswith(UNIX_PREFIX):
        return True
    host = target.rsplit(":", 1)[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
