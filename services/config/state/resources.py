"""Converts records to the resources that callers see, and parses resource names."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tenantry.config.v1 import adapter_pb2, credential_pb2, pool_pb2, tenant_pb2

from services.common.errors import FieldViolation, InvalidArgumentError
from services.config.state.etag import etag_of
from services.config.state.records import (
    AdapterRecord,
    CredentialRecord,
    ModelRecord,
    PoolRecord,
    TenantRecord,
)

_SEGMENT = r"([a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?)"
_PATTERNS = {
    "tenants/{tenant}": re.compile(rf"tenants/{_SEGMENT}"),
    "operators/{operator}": re.compile(rf"operators/{_SEGMENT}"),
    "tenants/{tenant}/adapters/{adapter}": re.compile(rf"tenants/{_SEGMENT}/adapters/{_SEGMENT}"),
    "tenants/{tenant}/keys/{key}": re.compile(rf"tenants/{_SEGMENT}/keys/{_SEGMENT}"),
    "operators/{operator}/keys/{key}": re.compile(rf"operators/{_SEGMENT}/keys/{_SEGMENT}"),
    "tenants/{tenant}/versions/{version}": re.compile(rf"tenants/{_SEGMENT}/versions/([1-9][0-9]{{0,11}})"),
    "models/{model}": re.compile(rf"models/{_SEGMENT}"),
    "pools/{pool}": re.compile(rf"pools/{_SEGMENT}"),
}
_ID = re.compile(_SEGMENT)
_LISTED = 5


def parse_name(name: str, *patterns: str, field: str) -> tuple[str, tuple[str, ...]]:
    """Match a resource name against patterns; returns the pattern it has, and its parts.

    Raises:
        InvalidArgumentError: it has none of them.
    """
    for pattern in patterns:
        match = _PATTERNS[pattern].fullmatch(name)
        if match:
            return pattern, match.groups()
    raise InvalidArgumentError([FieldViolation(field, f"is not of the form {' or '.join(patterns)}")])


def require_id(value: str, field: str) -> str:
    """Check a resource id, the last part of a name.

    Raises:
        InvalidArgumentError: it has another form.
    """
    if not _ID.fullmatch(value):
        raise InvalidArgumentError(
            [
                FieldViolation(
                    field, "has to be 1 to 63 of a-z, 0-9, _ and -, and begin and end with a letter or digit"
                )
            ]
        )
    return value


def listed(names: Sequence[str]) -> str:
    """Join names for a message: the first few, and how many more there are."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def tenant_resource(record: TenantRecord, into: tenant_pb2.Tenant | None = None) -> tenant_pb2.Tenant:
    """A tenant with its config in the clear; filled into an empty message, where one is given."""
    stored = record.stored
    tenant = tenant_pb2.Tenant() if into is None else into
    tenant.name = record.name
    tenant.tenant_uid = stored.tenant_uid
    tenant.ordinal = stored.ordinal
    tenant.display_name = stored.display_name
    tenant.state = stored.state
    tenant.config.CopyFrom(record.config)
    tenant.config_version = stored.config_version
    tenant.config_sha256 = stored.config_sha256
    tenant.etag = etag_of(record.mod_revision)
    tenant.create_time.CopyFrom(stored.create_time)
    tenant.update_time.CopyFrom(stored.update_time)
    tenant.revision = record.mod_revision
    return tenant


def adapter_resource(
    record: AdapterRecord, tenant_id: str, into: adapter_pb2.Adapter | None = None
) -> adapter_pb2.Adapter:
    """An adapter under its tenant's present name."""
    adapter = adapter_pb2.Adapter() if into is None else into
    adapter.name = f"tenants/{tenant_id}/adapters/{record.stored.adapter_id}"
    adapter.versions.MergeFrom(record.stored.versions)
    adapter.etag = etag_of(record.mod_revision)
    adapter.create_time.CopyFrom(record.stored.create_time)
    return adapter


def key_resource(
    record: CredentialRecord, tenant_id: str, into: credential_pb2.Key | None = None
) -> credential_pb2.Key:
    """A key under its tenant's present name; an operator's key keeps its own."""
    key = credential_pb2.Key() if into is None else into
    key.CopyFrom(record.stored.key)
    key.revision = record.mod_revision
    if record.stored.tenant_uid:
        key.name = f"tenants/{tenant_id}/keys/{key.name.rsplit('/', 1)[1]}"
    return key


def pool_resource(record: PoolRecord, into: pool_pb2.Pool | None = None) -> pool_pb2.Pool:
    """A pool with its etag."""
    pool = pool_pb2.Pool() if into is None else into
    pool.CopyFrom(record.pool)
    pool.etag = etag_of(record.mod_revision)
    return pool


def model_resource(record: ModelRecord, into: pool_pb2.BaseModel | None = None) -> pool_pb2.BaseModel:
    """A base model with its etag."""
    model = pool_pb2.BaseModel() if into is None else into
    model.CopyFrom(record.model)
    model.etag = etag_of(record.mod_revision)
    return model
