"""The config service's settings, read from the environment."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.common.settings import ServiceSettings


class ConfigSettings(ServiceSettings):
    """Environment variables `TENANTRY_CONFIG_*`, frozen at start."""

    model_config = SettingsConfigDict(env_prefix="TENANTRY_CONFIG_", frozen=True, extra="forbid")

    admin_listen: str
    """gRPC target to listen on for admin RPCs; Envoy connects to it."""
    discovery_listen: str
    """gRPC target to listen on for the mesh's own routers."""
    etcd_target: str
    """gRPC target of etcd."""
    state_dir: Path
    """Directory of the root key, the token signing key, the published keys and the first operator's key."""
    artifact_dir: Path
    """Directory of the artifact store, shared with routers."""
    known_good_max_age_seconds: float = Field(default=86_400.0, gt=0)
    """The greatest age of a config on disk that a start without etcd may serve."""
    audit_target: str | None = None
    """gRPC target of the audit service, which records edits and config versions; unset, nothing is recorded."""
    router_expiry_seconds: float = Field(default=60.0, ge=1.0)
    """How long a router that was lost stays known, and is named as missing, after it was last heard."""
