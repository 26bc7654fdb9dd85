"""The audit service's settings, from the environment."""

from __future__ import annotations

from pathlib import Path

from pydantic_settings import SettingsConfigDict

from services.common.settings import ServiceSettings


class AuditSettings(ServiceSettings):
    """Environment variables `TENANTRY_AUDIT_*`, frozen at start."""

    model_config = SettingsConfigDict(env_prefix="TENANTRY_AUDIT_", frozen=True, extra="forbid")

    append_listen: str
    """gRPC target of the append service. Only the mesh's own writers may reach it."""
    review_listen: str
    """gRPC target of the review service. Envoy reaches this one only."""
    state_dir: Path
    """Holds logs, journal and keys. One process for each directory."""
