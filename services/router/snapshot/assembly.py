"""Assembles snapshots from their pieces; nothing applies before the last piece, and nothing incomplete. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tenantry.config.v1 import config_discovery_service_pb2 as pb


class AssemblyError(Exception):
    """The pieces do not make a snapshot, or one that builds on another revision."""


@dataclass(frozen=True, slots=True)
class Assembled:
    """One whole snapshot, as it was sent."""

    nonce: str
    revision: int
    kind: pb.SnapshotKind.ValueType
    base_revision: int
    resources: Mapping[str, pb.Resource]
    removed: frozenset[str]

    @property
    def touched(self) -> frozenset[str] | None:
        """Keys that were added, changed or removed; None for all."""
        if self.kind == pb.SNAPSHOT_KIND_FULL:
            return None
        return self.removed | self.resources.keys()


class SnapshotAssembler:
    """One stream's pieces, in the order they came."""

    def __init__(self) -> None:
        self._pieces: list[pb.SnapshotChunk] = []

    def add(self, piece: pb.SnapshotChunk) -> Assembled | None:
        """Add a piece; returns the snapshot if this was its last one.

        Raises:
            AssemblyError: a piece is missing, doubled or of another snapshot; the snapshot is dropped.
        """
        if piece.chunk == 0:
            self._pieces = []
        first = self._pieces[0] if self._pieces else piece
        same = (piece.nonce, piece.revision, piece.kind, piece.base_revision) == (
            first.nonce,
            first.revision,
            first.kind,
            first.base_revision,
        )
        if piece.chunk != len(self._pieces) or not same:
            self._pieces = []
            raise AssemblyError("a piece is missing, doubled or of another snapshot")
        self._pieces.append(piece)
        if not piece.last:
            return None
        pieces, self._pieces = self._pieces, []
        resources: dict[str, pb.Resource] = {}
        for part in pieces:
            for resource in part.resources:
                if resource.key in resources:
                    raise AssemblyError("a resource came twice")
                resources[resource.key] = resource
        removed = frozenset(key for part in pieces for key in part.removed)
        return Assembled(piece.nonce, piece.revision, piece.kind, piece.base_revision, resources, removed)


def apply_to(
    held: Mapping[str, pb.Resource], held_revision: int, assembled: Assembled
) -> dict[str, pb.Resource]:
    """The resources after a snapshot.

    Raises:
        AssemblyError: a delta on another revision than the one in force, or a kind that this router does not know.
    """
    if assembled.kind == pb.SNAPSHOT_KIND_FULL:
        return dict(assembled.resources)
    if assembled.kind != pb.SNAPSHOT_KIND_DELTA:
        raise AssemblyError("a kind of snapshot this router does not know")
    if assembled.base_revision != held_revision:
        raise AssemblyError(f"builds on revision {assembled.base_revision}, held is {held_revision}")
    after = dict(held)
    for key in assembled.removed:
        after.pop(key, None)
    after.update(assembled.resources)
    return after
