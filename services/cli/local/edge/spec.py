"""What the edge is to be: everything its config depends on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


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
    max_connections: int = 10_000
