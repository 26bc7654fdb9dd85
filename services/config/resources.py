"""Records as the resources callers see, and resource names taken apart."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tenantry.config.v1 import adapter_pb2, credential_pb2, pool_pb2, tenant_pb2

from services.common.errors import FieldViolation, InvalidArgumentError
from services.config.etag import etag_of
from services.config.state import AdapterRecord, CredentialRecord, ModelRecord, PoolRecord, TenantRecord

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
    """Which of the patterns a resource name has, and its parts.

    Raises:
        InvalidArgumentError: none of them.
    """
    for pattern in patterns:
        match = _PATTERNS[pattern].fullmatch(name)
        if match:
            return pattern, match.groups()
    raise InvalidArgumentError([FieldViolation(field, f"is not of the form {' or '.join(patterns)}")])


def require_id(value: str, field: str) -> str:
    """A resource id: the last part of a name.

    Raises:
        InvalidArgumentError: another form.
    """
    if not _ID.fullmatch(value):
        raise InvalidArgumentError(
            [FieldViolation(field, "has to be 1 to 63 of a-z, 0-9, _ and -, ends being letters or digits")]
        )
    return value


def listed(names: Sequence[str]) -> str:
    """Names for a message: the first few, and how many more there are."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def tenant_resource(record: TenantRecord) -> tenant_pb2.Tenant:
    """A tenant with its config in the clear."""
    stored = record.stored
    return tenant_pb2.Tenant(
        name=record.name,
        tenant_uid=stored.tenant_uid,
        ordinal=stored.ordinal,
        display_name=stored.display_name,
        state=stored.state,
        config=record.config,
        config_version=stored.config_version,
        config_sha256=stored.config_sha256,
        etag=etag_of(record.mod_revision),
        create_time=stored.create_time,
        update_time=stored.update_time,
        revision=record.mod_revision,
    )


def adapter_resource(record: AdapterRecord, tenant_id: str) -> adapter_pb2.Adapter:
    """An adapter under its tenant's present name."""
    return adapter_pb2.Adapter(
        name=f"tenants/{tenant_id}/adapters/{record.stored.adapter_id}",
        versions=record.stored.versions,
        etag=etag_of(record.mod_revision),
        create_time=record.stored.create_time,
    )


def key_resource(record: CredentialRecord, tenant_id: str) -> credential_pb2.Key:
    """A key's record under its tenant's present name; an operator's keeps its own."""
    key = credential_pb2.Key()
    key.CopyFrom(record.stored.key)
    key.revision = record.mod_revision
    if record.stored.tenant_uid:
        key.name = f"tenants/{tenant_id}/keys/{key.name.rsplit('/', 1)[1]}"
    return key


def pool_resource(record: PoolRecord) -> pool_pb2.Pool:
    """A pool with its etag."""
    pool = pool_pb2.Pool()
    pool.CopyFrom(record.pool)
    pool.etag = etag_of(record.mod_revision)
    return pool


def model_resource(record: ModelRecord) -> pool_pb2.BaseModel:
    """A base model with its etag."""
    model = pool_pb2.BaseModel()
    model.CopyFrom(record.model)
    model.etag = etag_of(record.mod_revision)
    return model
