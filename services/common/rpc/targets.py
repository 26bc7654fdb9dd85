"""Targets of gRPC peers: `unix:/path` on one host, `host:port` otherwise."""

from __future__ import annotations

import ipaddress
import re

UNIX_PREFIX = "unix:"
# sockaddr_un.sun_path holds 108 bytes, including the NUL at its end.
MAX_UNIX_PATH_BYTES = 107


def canonical(target: str) -> str:
    """One spelling of a target, so that two spellings of one server compare as equal.

    Host names are compared in lower case and without a closing dot, IP addresses and ports by value, loopback addresses
    as `localhost`, paths without doubled slashes. Names are not resolved.
    """
    if target.startswith(UNIX_PREFIX):
        return UNIX_PREFIX + re.sub("/+", "/", target.removeprefix(UNIX_PREFIX))
    host, _, port = target.rpartition(":")
    host = host.strip("[]").lower().removesuffix(".")
    try:
        address = ipaddress.ip_address(host)
        host = "localhost" if address.is_loopback else address.compressed
    except ValueError:
        pass
    return f"{host}:{int(port) if port.isdecimal() else port}"


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
