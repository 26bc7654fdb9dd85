"""States as discovery messages: full or delta, in pieces that fit any message limit. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tenantry.config.v1 import config_discovery_service_pb2 as pb

from services.config.resources import (
    adapter_resource,
    key_resource,
    model_resource,
    pool_resource,
    tenant_resource,
)
from services.config.state import (
    AdapterRecord,
    CredentialRecord,
    ModelRecord,
    PoolRecord,
    Record,
    State,
    TenantRecord,
)

CHUNK_BYTES = 1 << 20
_KEY_OVERHEAD_BYTES = 8


def resource_of(key: str, record: Record, state: State) -> pb.Resource | None:
    """A record as a router needs it; None for what no router needs."""
    resource = pb.Resource(key=key, mod_revision=record.mod_revision)
    if isinstance(record, TenantRecord):
        resource.tenant.CopyFrom(tenant_resource(record))
    elif isinstance(record, AdapterRecord):
        owner = state.tenant_by_uid(record.stored.tenant_uid)
        if owner is None:
            return None
        resource.adapter.tenant_uid = record.stored.tenant_uid
        resource.adapter.adapter.CopyFrom(adapter_resource(record, owner.stored.tenant_id))
        resource.adapter.artifact_key = owner.key.artifact
    elif isinstance(record, CredentialRecord):
        owner = state.tenant_by_uid(record.stored.tenant_uid)
        if owner is None:
            return None
        resource.credential.tenant_uid = record.stored.tenant_uid
        resource.credential.key.CopyFrom(key_resource(record, owner.stored.tenant_id))
    elif isinstance(record, PoolRecord):
        resource.pool.CopyFrom(pool_resource(record))
    elif isinstance(record, ModelRecord):
        resource.base_model.CopyFrom(model_resource(record))
    return resource


def owner_of(record: Record) -> str:
    """The uid of the tenant a record belongs to; empty for none."""
    return record.stored.tenant_uid if isinstance(record, AdapterRecord | CredentialRecord) else ""


def delta(
    before: State, after: State, nonce: str, touched: frozenset[str] | None = None
) -> Iterator[pb.StreamSnapshotsResponse]:
    """What changed between two states, of which at most the keys in `touched` differ; None for not known.

    A record is compared by identity: an unchanged one is the same object in both. What belongs to a tenant is not
    shown without it, so it changes with the tenant's coming and going.
    """
    if touched is not None and not any(
        key.startswith("tenants/") and (key in before.records) != (key in after.records) for key in touched
    ):
        yield from _delta_of(touched, before, after, nonce)
        return
    came_or_went = set(before.uid_by_tenant_id.values()) ^ set(after.uid_by_tenant_id.values())
    changed = (
        resource_of(key, record, after)
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
        _pieces(changed, removed), nonce, after.revision, pb.SNAPSHOT_KIND_DELTA, before.revision
    )


def _delta_of(
    touched: Iterable[str], before: State, after: State, nonce: str
) -> Iterator[pb.StreamSnapshotsResponse]:
    """The same where no tenant came or went: a look at the keys that were touched, among however many there are."""
    present = sorted(key for key in touched if key in after.records)
    changed = (
        resource_of(key, after.records[key], after)
        for key in present
        if before.records.get(key) is not after.records[key]
    )
    removed = sorted(key for key in touched if key in before.records and key not in after.records)
    yield from _messages(
        _pieces(changed, removed), nonce, after.revision, pb.SNAPSHOT_KIND_DELTA, before.revision
    )


@dataclass(frozen=True, slots=True)
class Piece:
    """What one message holds of a snapshot."""

    resources: tuple[pb.Resource, ...]
    removed: tuple[str, ...]
    last: bool


def full_pieces(state: State) -> Iterator[Piece]:
    """A whole state in pieces, each put together when it is asked for."""
    return _pieces((resource_of(key, record, state) for key, record in state.records.items()), ())


def full(
    state: State, nonce: str, pieces: Iterable[Piece] | None = None
) -> Iterator[pb.StreamSnapshotsResponse]:
    """A whole state; its pieces may have been put together before."""
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
        yield pb.StreamSnapshotsResponse(
            chunk=pb.SnapshotChunk(
                nonce=nonce,
                revision=revision,
                kind=kind,
                base_revision=base_revision,
                chunk=number,
                last=piece.last,
                resources=piece.resources,
                removed=piece.removed,
            )
        )


def _pieces(resources: Iterable[pb.Resource | None], removed: Iterable[str]) -> Iterator[Piece]:
    size = 0
    held: list[pb.Resource] = []
    gone: list[str] = []
    for item in removed:
        gone.append(item)
        size += len(item) + _KEY_OVERHEAD_BYTES
        if size >= CHUNK_BYTES:
            yield Piece((), tuple(gone), last=False)
            size, gone = 0, []
    for resource in resources:
        if resource is None:
            continue
        length = resource.ByteSize() + _KEY_OVERHEAD_BYTES
        if size and size + length > CHUNK_BYTES:
            yield Piece(tuple(held), tuple(gone), last=False)
            size, held, gone = 0, [], []
        held.append(resource)
        size += length
    yield Piece(tuple(held), tuple(gone), last=True)
