"""Converts states to discovery messages: full or delta, in pieces that fit any message limit. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tenantry.config.v1 import config_discovery_service_pb2 as pb

from services.config.state.config_state import ConfigState
from services.config.state.records import (
    AdapterRecord,
    CredentialRecord,
    ModelRecord,
    PoolRecord,
    Record,
    TenantRecord,
)
from services.config.state.resources import (
    adapter_resource,
    key_resource,
    model_resource,
    pool_resource,
    tenant_resource,
)

CHUNK_BYTES = 1 << 20
_KEY_OVERHEAD_BYTES = 8


def resource_of(key: str, record: Record, state: ConfigState) -> pb.Resource | None:
    """Convert a record to what a router needs; None if no router needs it."""
    resource = pb.Resource()
    return resource if _describe(resource, key, record, state) else None


def _describe(resource: pb.Resource, key: str, record: Record, state: ConfigState) -> bool:
    """Fill in a resource in place, because copies dominate the cost of a large state; False if no router needs it."""
    resource.key, resource.mod_revision = key, record.mod_revision
    if isinstance(record, TenantRecord):
        tenant_resource(record, resource.tenant)
    elif isinstance(record, AdapterRecord):
        owner = state.tenant_by_uid(record.stored.tenant_uid)
        if owner is None:
            return False
        resource.adapter.tenant_uid = record.stored.tenant_uid
        adapter_resource(record, owner.stored.tenant_id, resource.adapter.adapter)
        resource.adapter.artifact_key = owner.key.artifact
    elif isinstance(record, CredentialRecord):
        owner = state.tenant_by_uid(record.stored.tenant_uid)
        if owner is None:
            return False
        resource.credential.tenant_uid = record.stored.tenant_uid
        key_resource(record, owner.stored.tenant_id, resource.credential.key)
    elif isinstance(record, PoolRecord):
        pool_resource(record, resource.pool)
    elif isinstance(record, ModelRecord):
        model_resource(record, resource.base_model)
    return True


def owner_of(record: Record) -> str:
    """The uid of the tenant that a record belongs to; empty for none."""
    return record.stored.tenant_uid if isinstance(record, AdapterRecord | CredentialRecord) else ""


def delta(
    before: ConfigState, after: ConfigState, nonce: str, touched: frozenset[str] | None = None
) -> Iterator[pb.StreamSnapshotsResponse]:
    """The messages of what changed between two states; at most the keys in `touched` differ, None for not known.

    Records are compared by identity: an unchanged one is the same object in both states. What belongs to a tenant is
    sent only while the tenant exists, so it changes when the tenant is created or deleted.
    """
    if touched is not None and not any(
        key.startswith("tenants/") and (key in before.records) != (key in after.records) for key in touched
    ):
        yield from _delta_of(touched, before, after, nonce)
        return
    came_or_went = set(before.uid_by_tenant_id.values()) ^ set(after.uid_by_tenant_id.values())
    changed = (
        (key, record)
        for key, record in after.records.items()
        if before.records.get(key) is not record or (came_or_went and owner_of(record) in came_or_went)
    )
    gone = before.records.keys() - after.records.keys()
    if came_or_went:
        gone |= {
            key
            for key, record in after.records.items()
            if owner_of(record) in came_or_went and after.tenant_by_uid(owner_of(record)) is None
        }
    removed = sorted(gone)
    yield from _messages(
        _pieces(after, changed, removed), nonce, after.revision, pb.SNAPSHOT_KIND_DELTA, before.revision
    )


def _delta_of(
    touched: Iterable[str], before: ConfigState, after: ConfigState, nonce: str
) -> Iterator[pb.StreamSnapshotsResponse]:
    """The same while no tenant was created or deleted: it looks at the touched keys only."""
    present = sorted(key for key in touched if key in after.records)
    changed = (
        (key, after.records[key]) for key in present if before.records.get(key) is not after.records[key]
    )
    removed = sorted(key for key in touched if key in before.records and key not in after.records)
    yield from _messages(
        _pieces(after, changed, removed), nonce, after.revision, pb.SNAPSHOT_KIND_DELTA, before.revision
    )


@dataclass(frozen=True, slots=True)
class Piece:
    """The part of a message that is the same for every router."""

    body: bytes
    """A serialised `SnapshotChunk` with resources and removed keys only."""
    last: bool


def full_pieces(state: ConfigState) -> Iterator[Piece]:
    """The pieces of a whole state, each built when it is asked for."""
    return _pieces(state, state.records.items(), ())


def full(
    state: ConfigState, nonce: str, pieces: Iterable[Piece] | None = None
) -> Iterator[pb.StreamSnapshotsResponse]:
    """The messages of a whole state; its pieces may have been built before."""
    pieces = full_pieces(state) if pieces is None else pieces
    return _messages(pieces, nonce, state.revision, pb.SNAPSHOT_KIND_FULL, 0)


def _messages(
    pieces: Iterable[Piece],
    nonce: str,
    revision: int,
    kind: pb.SnapshotKind.ValueType,
    base_revision: int,
) -> Iterator[pb.StreamSnapshotsResponse]:
    for number, piece in enumerate(pieces):
        message = pb.StreamSnapshotsResponse()
        # One call for all resources of the body: copying them one by one took five times as long.
        message.chunk.MergeFromString(piece.body)
        message.chunk.nonce = nonce
        message.chunk.revision = revision
        message.chunk.kind = kind
        message.chunk.base_revision = base_revision
        message.chunk.chunk = number
        message.chunk.last = piece.last
        yield message


def _pieces(
    state: ConfigState, records: Iterable[tuple[str, Record]], removed: Iterable[str]
) -> Iterator[Piece]:
    held, size_bytes = pb.SnapshotChunk(), 0
    for key in removed:
        held.removed.append(key)
        size_bytes += len(key) + _KEY_OVERHEAD_BYTES
        if size_bytes >= CHUNK_BYTES:
            yield Piece(held.SerializeToString(), last=False)
            held, size_bytes = pb.SnapshotChunk(), 0
    for key, record in records:
        resource = held.resources.add()
        if not _describe(resource, key, record, state):
            held.resources.pop()
            continue
        length_bytes = resource.ByteSize() + _KEY_OVERHEAD_BYTES
        if size_bytes and size_bytes + length_bytes > CHUNK_BYTES:
            following = pb.SnapshotChunk(resources=[held.resources.pop()])
            yield Piece(held.SerializeToString(), last=False)
            held, size_bytes = following, 0
        size_bytes += length_bytes
    yield Piece(held.SerializeToString(), last=True)
