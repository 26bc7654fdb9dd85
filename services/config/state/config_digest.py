"""The canonical bytes of a config, and their digest. Pure."""

from __future__ import annotations

import hashlib

from tenantry.config.v1 import tenant_pb2


def canonical_bytes(config: tenant_pb2.TenantConfig) -> bytes:
    """Serialise a config, the same for equal configs: protobuf's deterministic form, without maps or unknown fields."""
    return config.SerializeToString(deterministic=True)


def config_sha256(config: tenant_pb2.TenantConfig) -> str:
    """SHA-256 of a config, lowercase hex."""
    return hashlib.sha256(canonical_bytes(config)).hexdigest()
