"""The router's settings: its environment, frozen at start."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from services.common.rpc.targets import is_local
from services.common.settings import ServiceSettings


class RouterSettings(ServiceSettings):
    """Settings of one router process, from `TENANTRY_ROUTER_*`."""

    model_config = SettingsConfigDict(env_prefix="TENANTRY_ROUTER_", frozen=True, extra="forbid")

    router: str = "router-1"
    """Names this process to the config and audit services; unique among routers."""
    listen: str
    """Where Envoy reaches it: `unix:/path` or `host:port`."""
    flow_listen: str | None = None
    """Where other routers of the mesh reach this one as flow controller: `unix:/path` or `host:port`. None for a router
    that counts limits and places for itself alone: only where it is the only one."""
    flow_target: str | None = None
    """The same, as other routers name it; none for `flow_listen`."""
    config_target: str
    """The config service's discovery listener."""
    audit_target: str
    """The audit service's append listener."""
    artifact_dir: Path
    """The artifact store."""
    jwks_path: Path
    """The public keys that callers' tokens are signed with."""
    state_dir: Path | None = None
    """This router's own directory, for the last known good config and its key; none to keep no such config."""
    config_signer_path: Path | None = None
    """The config service's public key, which verifies the last known good config; none to trust the first that it
    sends."""
    known_good_max_age_seconds: float = Field(default=86_400.0, gt=0)
    """How old a last known good config may be to start from it."""
    tokeniser_threads: int = Field(default=2, ge=1)
    """Long prompts encoded at once."""
    adapter_cache_bytes: int = Field(default=1 << 30, ge=0)
    """Opened adapter weights kept in memory."""
    max_concurrent_rpcs: int = Field(default=4096, ge=1)
    """Calls at once, over all tenants; more are refused with SERVER_BUSY."""
    metric_tenants: int = Field(default=1000, ge=0)
    """Tenants with metric series of their own; the others are counted together."""
    drain_seconds: float = Field(default=2.0, ge=0)
    """On a clean stop: how long running requests may take to end."""

    @field_validator("metrics_address")
    @classmethod
    def _metrics_stay_on_this_host(cls, address: str | None) -> str | None:
        """Refuse other addresses: metrics name every tenant and are served without TLS."""
        if address is None:
            return None
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not is_local(address):
            raise ValueError("must be host:port with a loopback address")
        return address
