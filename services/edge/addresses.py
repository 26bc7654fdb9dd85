"""Addresses as a spec writes them: `unix:/path` or `host:port`."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from services.common.rpc.targets import MAX_UNIX_PATH_BYTES, UNIX_PREFIX

_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*\.?")
_MAX_PORT = 65_535


@dataclass(frozen=True, slots=True)
class Address:
    """A Unix socket's path, or a host and a port."""

    path: str = ""
    host: str = ""
    """An IP address without brackets, or a name."""
    port: int = 0

    @property
    def is_host_name(self) -> bool:
        """Whether the host has to be looked up."""
        return bool(self.host) and not _is_ip_address(self.host)


def parse_address(text: str) -> Address:
    """Read an address.

    Raises:
        ValueError: not an address; the text gives the reason.
    """
    if text.startswith(UNIX_PREFIX):
        return Address(path=_unix_path(text.removeprefix(UNIX_PREFIX)))
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise ValueError(f"{text!r} is neither host:port nor unix:/path")
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= _MAX_PORT):
        raise ValueError(f"{text!r} has no port from 1 to {_MAX_PORT}")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if ":" in bare and bare == host:
        raise ValueError(f"{text!r}: write an IPv6 address in brackets, as in [::1]:8443")
    if not _is_ip_address(bare) and (bare != host or not _HOST_NAME.fullmatch(bare) or _is_numeric(bare)):
        raise ValueError(f"{text!r}: {host!r} is neither an IP address nor a host name")
    return Address(host=bare, port=int(port))


def _unix_path(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError(f"'{UNIX_PREFIX}{path}' is not an absolute path")
    if len(path.encode("utf-8", "surrogateescape")) > MAX_UNIX_PATH_BYTES or "\0" in path:
        raise ValueError(f"'{UNIX_PREFIX}{path}' is longer than the {MAX_UNIX_PATH_BYTES} bytes Linux allows")
    return path


def _is_ip_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_numeric(host: str) -> bool:
    """Whether it looks like an IPv4 address and is none, such as 10.0.0.256 (RFC 3986, section 3.2.2)."""
    return host.rstrip(".").rpartition(".")[2].isdigit()
