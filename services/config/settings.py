"""The config service's settings, from the environment."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.common.settings import ServiceSettings


class ConfigSettings(ServiceSettings):
    """Environment variables `TENANTRY_CONFIG_*`, frozen at start."""

    model_config = SettingsConfigDict(env_prefix="TENANTRY_CONFIG_", frozen=True, extra="forbid")

    admin_listen: str
    """gRPC target of the admin service: the one Envoy may reach."""
    discovery_listen: str
    """gRPC target of the discovery service: for the mesh's own routers only."""
    etcd_target: str
    """gRPC target of etcd."""
    state_dir: Path
    """Root key, token signing key, published keys, the first operator's key."""
    artifact_dir: Path
    """The artifact store, shared with routers."""
    known_good_max_age_seconds: float = Field(default=86_400.0, gt=0)
    """How long ago a config on disk may have been current to be started from while etcd does not answer."""
    audit_target: str | None = None
    """gRPC target of the audit service, which is told of every applied config version; none to tell nobody."""
    router_expiry_seconds: float = Field(default=60.0, ge=1.0)
    """How long a router that is gone stays known, and is missed, after it was last heard."""
