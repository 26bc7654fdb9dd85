"""Serves reviewers: the newest checkpoint, the public keys to pin, the whole log as a bundle."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import rfc8785
from google.protobuf import timestamp_pb2
from grpc.aio import ServicerContext
from tenantry.audit.v1 import audit_review_service_pb2 as pb
from tenantry.audit.v1 import audit_review_service_pb2_grpc

from services.audit.bundle.export import LogReader, Piece, export_bundle
from services.audit.bundle.files import manifest_key_name
from services.audit.bundle.manifest import Window
from services.audit.keys.envelope import EnvelopeError
from services.audit.keys.keyset import Keyset
from services.audit.keys.signing import SigningKeys
from services.audit.keys.wrap import KeysetError
from services.audit.logs.folded_state import FoldedState
from services.audit.logs.open_logs import origin_of
from services.audit.logs.segments import SegmentDamagedError
from services.audit.logs.store import LogStore
from services.audit.logs.tenant_log import LogDamagedError, NewEntry
from services.audit.proofs.entry import ID_BYTES, EntryKind
from services.audit.proofs.signed_note import Checkpoint, NoteSigner, open_note
from services.audit.rpc.appender import Appender
from services.audit.rpc.grants import GrantCheck
from services.common.clock import Clock
from services.common.errors import FailedPreconditionError, NotFoundError, Reason

_log = logging.getLogger(__name__)
Context = ServicerContext[Any, Any]


class ReviewServicer(audit_review_service_pb2_grpc.AuditReviewServiceServicer):
    """Reads the log that a reviewer's grant names. Every reading is itself an entry of that log."""

    def __init__(self, appender: Appender, keys: SigningKeys, grants: GrantCheck, clock: Clock) -> None:
        self._appender = appender
        self._keys = keys
        self._grants = grants
        self._clock = clock

    def _admitted(self, context: Context, name: str) -> tuple[str, str]:
        sent = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
        # Of two it would be a question which one a proxy checked.
        return self._grants.tenant_uid(str(sent[0]) if len(sent) == 1 else None, name)

    async def GetCheckpoint(self, request: pb.GetCheckpointRequest, context: Context) -> pb.Checkpoint:
        """Make and return a checkpoint of all that is durable now."""
        tenant_uid, grant_id = self._admitted(context, request.name)
        await self._record_reading(tenant_uid, grant_id, "checkpoint")
        checkpoint, note = await self._newest(tenant_uid)
        return pb.Checkpoint(
            name=request.name,
            origin=checkpoint.origin,
            size=checkpoint.size,
            root_hash=checkpoint.root,
            note=note,
        )

    async def GetVerificationKeys(
        self, request: pb.GetVerificationKeysRequest, context: Context
    ) -> pb.VerificationKeys:
        """Return the public keys of the log."""
        tenant_uid, grant_id = self._admitted(context, request.name)
        origin = await self._record_reading(tenant_uid, grant_id, "keys")
        return pb.VerificationKeys(
            name=request.name,
            log_keys=[str(NoteSigner(origin, self._keys.log).verifier_key)],
            manifest_keys=[str(NoteSigner(manifest_key_name(origin), self._keys.manifest).verifier_key)],
        )

    async def ExportLog(
        self, request: pb.ExportLogRequest, context: Context
    ) -> AsyncIterator[pb.ExportLogResponse]:
        """Stream the bundle's files, piece by piece."""
        tenant_uid, grant_id = self._admitted(context, request.name)
        window = Window(
            _nanoseconds(request.start_time) if request.HasField("start_time") else None,
            _nanoseconds(request.end_time) if request.HasField("end_time") else None,
        )
        await self._record_reading(tenant_uid, grant_id, "export", window)
        checkpoint, note = await self._newest(tenant_uid)

        while await self._appender.with_store(lambda store: store.fold_tenant(tenant_uid)):
            pass

        def opened(store: LogStore) -> tuple[LogReader, FoldedState]:
            log = store.log(tenant_uid)
            assert log is not None
            keyset: Keyset = log.keyset
            return LogReader(store.folder(log.log_id), _up_to(log.folded, checkpoint), keyset), log.folded

        reader, _ = await self._appender.with_store(opened)
        pieces = export_bundle(
            reader,
            checkpoint,
            note,
            NoteSigner(manifest_key_name(checkpoint.origin), self._keys.manifest),
            tenant_uid=tenant_uid,
            created_ns=int(self._clock.wall_seconds() * 1e9),
            window=window,
        )
        while (piece := await asyncio.to_thread(self._next, pieces)) is not None:
            path, data, last = piece
            yield pb.ExportLogResponse(path=path, data=data, last=last)

    def _next(self, pieces: Iterator[Piece]) -> Piece | None:
        try:
            return next(pieces, None)
        except (SegmentDamagedError, EnvelopeError, KeysetError) as error:
            _log.error("an export stopped: %s", error)
            raise FailedPreconditionError(
                "the log is damaged and cannot be exported", reason=Reason.LOG_DAMAGED
            ) from None

    async def _origin(self, tenant_uid: str) -> str:
        def read(store: LogStore) -> str | None:
            log = store.log(tenant_uid)
            return origin_of(log.log_id) if log is not None else None

        origin = await self._appender.with_store(read)
        if origin is None:
            raise NotFoundError("no such audit log")
        return origin

    async def _newest(self, tenant_uid: str) -> tuple[Checkpoint, bytes]:
        origin = await self._origin(tenant_uid)
        await self._appender.checkpoint(tenant_uid)

        def read(store: LogStore) -> bytes:
            log = store.log(tenant_uid)
            assert log is not None
            assert log.checkpoint_note is not None
            return log.checkpoint_note

        note = await self._appender.with_store(read)
        key = NoteSigner(origin, self._keys.log).verifier_key
        return Checkpoint.parse(open_note(note, key)), note

    async def _record_reading(
        self, tenant_uid: str, grant_id: str, action: str, window: Window | None = None
    ) -> str:
        """Record a reading in the log before anything is read; returns the log's origin.

        Raises:
            NotFoundError: there is no such log. A reading does not make one.
            LogDamagedError: the reading cannot be recorded, so nothing is read.
        """
        origin = await self._origin(tenant_uid)
        meta = {"action": action, "grant_id": grant_id, **(window.document() if window else {})}
        entry = NewEntry(
            tenant_uid, os.urandom(ID_BYTES), EntryKind.REVIEW, (rfc8785.dumps(meta), None, None)
        )
        result = await self._appender.submit(entry)
        if isinstance(result, LogDamagedError):
            raise result
        return origin


def _up_to(state: FoldedState, checkpoint: Checkpoint) -> FoldedState:
    """The log without the entries that came after the checkpoint: they stay out of the bundle."""
    if state.size < checkpoint.size:
        raise SegmentDamagedError("the segments end before the checkpoint")
    return FoldedState(
        state.tenant_uid,
        state.log_id,
        checkpoint.size,
        [],
        state.segment,
        state.segment_bytes,
        state.last_time_ns,
    )


def _nanoseconds(moment: timestamp_pb2.Timestamp) -> int:
    return moment.ToNanoseconds()
