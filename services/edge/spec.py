"""What the edge is to be: everything its config depends on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class EdgeLimits:
    """What the edge holds at most, for how long. Coarse: tenants' own limits are the router's."""

    tenant_connections: int = 10_000
    """Also bounds connections that have not shown a key yet."""
    operations_connections: int = 1_000
    """Counted apart: whoever fills the tenants' door does not lock operators out."""
    handshake_seconds: float = 10.0
    """From a connection's start to the end of its TLS handshake."""
    idle_connection_seconds: float = 300.0
    """Without a request."""
    tenant_request_seconds: float = 60.0
    """From a request's first byte to its last: 4 MiB at 70 kB/s."""
    operations_request_seconds: float = 600.0
    """The same for operators, who upload adapters."""
    principal_requests_per_second: int = 2_000
    """Of one tenant, operator or reviewer, with as much again at once."""
    keyless_requests_per_second: int = 1_000
    """Of everybody without a key together, at each door."""
    heap_bytes: int = 1 << 30
    """At 90 % of it Envoy gives memory back, at 95 % it refuses requests and connections."""


@dataclass(frozen=True, slots=True)
class EdgeSpec:
    """One Envoy with two TLS listeners. Sockets are Unix paths; ports are on loopback."""

    tenant_port: int
    operations_port: int
    certificate_path: Path
    key_path: Path
    admin_socket: Path
    """Envoy's admin interface: a Unix socket, never the network."""
    access_log_path: Path
    router_sockets: tuple[Path, ...]
    config_admin_socket: Path
    audit_review_socket: Path
    config_jwks: str
    """The config service's public keys, for callers and operators."""
    audit_jwks: str
    """The audit service's public keys, for reviewers."""
    limits: EdgeLimits = EdgeLimits()
