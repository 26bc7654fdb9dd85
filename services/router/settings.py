"""The router's settings: its environment, frozen at start."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.common.settings import ServiceSettings


class RouterSettings(ServiceSettings):
    """Settings of one router process, from `TENANTRY_ROUTER_*`."""

    model_config = SettingsConfigDict(env_prefix="TENANTRY_ROUTER_", frozen=True, extra="forbid")

    router: str = "router-1"
    """Names this process to the config and audit services; unique among routers."""
    listen: str
    """Where Envoy reaches it: `unix:/path` or `host:port`."""
    config_target: str
    """The config service's discovery listener."""
    audit_target: str
    """The audit service's append listener."""
    artifact_dir: Path
    """The artifact store."""
    jwks_path: Path
    """The public keys that callers' tokens are signed with."""
    tokeniser_threads: int = Field(default=2, ge=1)
    """Long prompts encoded at once."""
    adapter_cache_bytes: int = Field(default=1 << 30, ge=0)
    """Opened adapter weights kept in memory."""
    max_concurrent_rpcs: int = Field(default=4096, ge=1)
    """Over all tenants; beyond it gRPC refuses."""
    drain_seconds: float = Field(default=2.0, ge=0)
    """On a clean stop: how long running requests may take to end."""
