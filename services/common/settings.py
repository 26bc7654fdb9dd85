"""The settings that every process has.

Settings come from the environment and are frozen at start. Only `settings.py` files read the environment.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.common.logs import LogLevel
from services.common.rpc.tls import TLSMaterial


class ServiceSettings(BaseSettings):
    """Settings of any process. Each subclass sets its own environment prefix."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    log_level: LogLevel = "INFO"
    """The least severe level that is written."""
    metrics_address: str | None = None
    """`host:port` for Prometheus. None for no metrics server."""
    metrics_token_path: Path | None = None
    """Holds the token that Prometheus has to send. Made with mode 0600 if it is missing."""
    tls_certificate_path: Path | None = None
    """PEM certificate of this process; with the two below, mutual TLS on every hop that leaves the host."""
    tls_key_path: Path | None = None
    """PEM key of the certificate."""
    tls_ca_path: Path | None = None
    """PEM certificate of the peers' CA."""

    @model_validator(mode="after")
    def _tls_is_whole(self) -> ServiceSettings:
        given = [
            path is not None for path in (self.tls_certificate_path, self.tls_key_path, self.tls_ca_path)
        ]
        if any(given) and not all(given):
            raise ValueError(
                "tls_certificate_path, tls_key_path and tls_ca_path go together: set all or none"
            )
        return self

    @model_validator(mode="after")
    def _metrics_have_a_token(self) -> ServiceSettings:
        if self.metrics_address is not None and self.metrics_token_path is None:
            raise ValueError("metrics_address needs metrics_token_path: metrics name every tenant")
        return self

    @property
    def tls(self) -> TLSMaterial | None:
        """The TLS material; None when no path is set."""
        if self.tls_certificate_path and self.tls_key_path and self.tls_ca_path:
            return TLSMaterial(self.tls_certificate_path, self.tls_key_path, self.tls_ca_path)
        return None
