"""The audit entries of config versions, so that a tenant's export shows the config of every version."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import Protocol

from google.protobuf.json_format import MessageToDict
from tenantry.config.v1 import stored_pb2, tenant_pb2

from services.common.audit.writer import AuditEntry, EntryKind
from services.config.state.config_digest import canonical_bytes

_ID_BYTES = 16


class VersionSink(Protocol):
    """Queues audit entries; `services.common.audit.writer.AuditWriter` implements it."""

    def append_soon(self, entry: AuditEntry) -> bool:
        """Queue an entry without waiting; returns False when there is no room."""
        ...


@dataclass(frozen=True, slots=True)
class NewVersion:
    """A config version that a change makes."""

    tenant_uid: str
    stored: stored_pb2.StoredVersion
    config: tenant_pb2.TenantConfig

    def entry(self) -> AuditEntry:
        """Its entry in the tenant's audit log."""
        return version_entry(self.tenant_uid, self.stored, self.config)


def version_entry(
    tenant_uid: str, version: stored_pb2.StoredVersion, config: tenant_pb2.TenantConfig
) -> AuditEntry:
    """The entry of a version: the config in readable form, and the exact bytes whose SHA-256 every answer names.

    A version always has the same record id, so that recording it twice leaves one entry. The number alone would not do:
    after a restore from a backup, a number can come again with another config.
    """
    number = version.config_version
    said = hashlib.sha256(
        f"config-version\0{tenant_uid}\0{number}\0{version.config_sha256}\0".encode()
        + version.create_time.SerializeToString(deterministic=True)
    )
    return AuditEntry(
        tenant_uid,
        EntryKind.CONFIG_VERSION,
        {
            "config_version": number,
            "config_sha256": version.config_sha256,
            "create_time": version.create_time.ToJsonString(),
        },
        {
            "config": MessageToDict(config, preserving_proto_field_name=True),
            "config_protobuf": base64.b64encode(canonical_bytes(config)).decode(),
        },
        record_id=said.digest()[:_ID_BYTES],
        key_id=version.operator_key_id,
    )
