"""Seals a tenant's config: the one in force, and each version of its history. Pure.

A sealed config opens in its own place only, and has the digest that answers name. A version's record is bound to its
config, so that its author, time and reason cannot be exchanged.
"""

from __future__ import annotations

import hashlib

from google.protobuf.message import DecodeError
from tenantry.config.v1 import stored_pb2, tenant_pb2

from services.config.state.config_digest import canonical_bytes, config_sha256
from services.config.state.sealing import SealError, TenantKey

_NUMBER_BYTES = 8


def seal_in_force(stored: stored_pb2.StoredTenant, config: tenant_pb2.TenantConfig, key: TenantKey) -> None:
    """Seal a config into a tenant's record, under the version number in the record."""
    stored.config_sha256 = config_sha256(config)
    stored.sealed_config = key.seal("in force", _number(stored.config_version), canonical_bytes(config))


def open_in_force(stored: stored_pb2.StoredTenant, key: TenantKey) -> tenant_pb2.TenantConfig:
    """Open the config in force.

    Raises:
        SealError: it belongs to another tenant, version or place, or is damaged.
    """
    plain = key.open("in force", _number(stored.config_version), stored.sealed_config)
    return _config(plain, stored.config_sha256)


def seal_version(
    version: stored_pb2.StoredVersion, config: tenant_pb2.TenantConfig, reason: str, key: TenantKey
) -> None:
    """Seal a config and a reason into a version whose other fields are set."""
    version.config_sha256 = config_sha256(config)
    number = _number(version.config_version)
    version.sealed_reason = key.seal("reason", number, reason.encode()) if reason else b""
    version.sealed_config = key.seal("version", _record(version), canonical_bytes(config))


def open_version(
    version: stored_pb2.StoredVersion, number: int, key: TenantKey
) -> tuple[tenant_pb2.TenantConfig, str]:
    """Open a version stored under a number; returns its config and reason.

    Raises:
        SealError: it is not the version that was written there.
    """
    if version.config_version != number:
        raise SealError(f"holds version {version.config_version}")
    config = _config(key.open("version", _record(version), version.sealed_config), version.config_sha256)
    if not version.sealed_reason:
        return config, ""
    return config, key.open("reason", _number(number), version.sealed_reason).decode()


def _config(plain: bytes, sha256: str) -> tenant_pb2.TenantConfig:
    if hashlib.sha256(plain).hexdigest() != sha256:  # proven: config-has-its-digest
        raise SealError("a config does not have the digest in its record")
    try:
        return tenant_pb2.TenantConfig.FromString(plain)
    except DecodeError:
        raise SealError("a config does not parse") from None


def _record(version: stored_pb2.StoredVersion) -> bytes:
    """The bytes of a version without its config."""
    record = stored_pb2.StoredVersion()
    record.CopyFrom(version)
    record.ClearField("sealed_config")
    return record.SerializeToString(deterministic=True)


def _number(version: int) -> bytes:
    return version.to_bytes(_NUMBER_BYTES, "big")
