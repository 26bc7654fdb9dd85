"""TLS between the mesh's own processes: mutual between hosts, none on one host."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc

from services.common.rpc.targets import is_local


class InsecureTargetError(ValueError):
    """A target leaves this host, and there is no TLS material."""


@dataclass(frozen=True, slots=True)
class TLSMaterial:
    """Paths of PEM files: certificate and key of this process, and the CA of its peers."""

    certificate_path: Path
    key_path: Path
    ca_path: Path

    def server_credentials(self) -> grpc.ServerCredentials:
        """Make credentials that require a certificate of the caller."""
        pair = (self.key_path.read_bytes(), self.certificate_path.read_bytes())
        return grpc.ssl_server_credentials([pair], self.ca_path.read_bytes(), require_client_auth=True)

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Make credentials that present our certificate and check the server's."""
        return grpc.ssl_channel_credentials(
            self.ca_path.read_bytes(), self.key_path.read_bytes(), self.certificate_path.read_bytes()
        )


def require_safe(target: str, tls: TLSMaterial | None) -> None:
    """Refuse a target that leaves this host in the clear.

    Raises:
        InsecureTargetError: it names the target and the settings to set.
    """
    if tls is None and not is_local(target):
        raise InsecureTargetError(
            f"{target} leaves this host: set the TLS certificate, key and CA paths, or use a unix: target"
        )
