"""The config service's settings, from the environment."""

from __future__ import annotations

from pathlib import Path

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
    audit_target: str | None = None
    """gRPC target of the audit service, which is told of every applied config version; none to tell nobody."""
