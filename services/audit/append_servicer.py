"""The append stream: a hello, then batches in and acks out for as long as the writer lives."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence

from grpc.aio import ServicerContext
from tenantry.audit.v1 import audit_append_service_pb2 as pb
from tenantry.audit.v1 import audit_append_service_pb2_grpc, entry_pb2

from services.audit.appender import MAX_TENANT_WAITING_BYTES, Appender, Result, WriterSession
from services.audit.entry import ID_BYTES, EntryKind
from services.audit.intake import parse_entry
from services.audit.log import RecordConflictError
from services.audit.metrics import AuditMetrics
from services.audit.store import MAX_SESSIONS, LogStore
from services.common.errors import (
    Error,
    FailedPreconditionError,
    FieldViolation,
    InvalidArgumentError,
    Reason,
)
from services.common.rpc_status import to_status

MAX_BATCH_MESSAGE_ENTRIES = 256


class AppendServicer(audit_append_service_pb2_grpc.AuditAppendServiceServicer):
    """Takes entries from the mesh's own writers."""

    def __init__(self, appender: Appender, store: LogStore, metrics: AuditMetrics) -> None:
        self._appender = appender
        self._metrics = metrics
        self._sessions: OrderedDict[bytes, WriterSession] = OrderedDict(
            (session_id, WriterSession(session_id, sequence))
            for session_id, sequence in store.sessions.items()
        )

    async def Append(
        self,
        request_iterator: AsyncIterator[pb.AppendRequest],
        context: ServicerContext[pb.AppendRequest, pb.AppendResponse],  # noqa: ARG002 - gRPC passes it
    ) -> AsyncIterator[pb.AppendResponse]:
        """Append batches; acks come in any order, each once its entry is durable."""
        first = await anext(request_iterator, None)
        if first is None or first.WhichOneof("message") != "hello":
            raise InvalidArgumentError([FieldViolation("hello", "has to be the first message")])
        if len(first.hello.session_id) != ID_BYTES:
            raise InvalidArgumentError(
                [
                    FieldViolation(
                        "hello.session_id", f"has {len(first.hello.session_id)} bytes, not {ID_BYTES}"
                    )
                ]
            )
        await self._refuse_if_behind(first.hello.newest_receipts)
        session = self._session(first.hello.session_id)
        session.writer = first.hello.writer
        self._metrics.writers.inc()
        yield pb.AppendResponse(
            welcome=pb.SessionWelcome(
                durable_sequence=session.durable_sequence, max_outstanding_bytes=MAX_TENANT_WAITING_BYTES
            )
        )
        acks: asyncio.Queue[pb.Ack | None] = asyncio.Queue()
        reader = asyncio.create_task(self._read(request_iterator, session, acks), name="audit-append-reader")
        try:
            while (ack := await acks.get()) is not None:
                ready = [ack]
                while not acks.empty():
                    more = acks.get_nowait()
                    if more is None:
                        acks.put_nowait(None)
                        break
                    ready.append(more)
                yield pb.AppendResponse(acks=pb.AckBatch(acks=ready))
            await reader
        finally:
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reader

    async def _refuse_if_behind(self, receipts: Sequence[entry_pb2.Receipt]) -> None:
        """A writer holds a receipt this service does not know: the log was rolled back or cut."""
        log_ids = [receipt.log_id for receipt in receipts]
        sizes = await self._appender.with_store(lambda store: store.sizes_of(log_ids)) if log_ids else []
        if any(receipt.index >= size for receipt, size in zip(receipts, sizes, strict=True)):
            raise FailedPreconditionError(
                "the log is behind a receipt this writer holds", reason=Reason.LOG_DAMAGED
            )

    def _session(self, session_id: bytes) -> WriterSession:
        session = self._sessions.setdefault(session_id, WriterSession(session_id, 0))
        self._sessions.move_to_end(session_id)
        if len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)
        return session

    async def _read(
        self,
        requests: AsyncIterator[pb.AppendRequest],
        session: WriterSession,
        acks: asyncio.Queue[pb.Ack | None],
    ) -> None:
        outstanding: set[asyncio.Future[Result]] = set()
        try:
            async for request in requests:
                if len(request.batch.entries) > MAX_BATCH_MESSAGE_ENTRIES:
                    raise InvalidArgumentError(
                        [
                            FieldViolation(
                                "batch.entries",
                                f"has {len(request.batch.entries)} entries, more than {MAX_BATCH_MESSAGE_ENTRIES}",
                            )
                        ]
                    )
                for message in request.batch.entries:
                    self._take(message, session, acks, outstanding)
            if outstanding:
                await asyncio.wait(outstanding)
        finally:
            acks.put_nowait(None)

    def _take(
        self,
        message: entry_pb2.AppendEntry,
        session: WriterSession,
        acks: asyncio.Queue[pb.Ack | None],
        outstanding: set[asyncio.Future[Result]],
    ) -> None:
        sequence = message.sequence
        try:
            entry = parse_entry(message, session.session_id, session.writer)
            done = self._appender.submit(entry, session, sequence)
        except Error as error:
            if not isinstance(error, InvalidArgumentError):
                acks.put_nowait(pb.Ack(sequence=sequence, error=to_status(error)))
                return
            session.settle(sequence)
            self._metrics.entries.labels(kind="invalid", result="refused").inc()
            acks.put_nowait(pb.Ack(sequence=sequence, error=to_status(error)))
            return
        outstanding.add(done)
        kind = EntryKind(message.kind).name.lower()

        def settled(future: asyncio.Future[Result]) -> None:
            outstanding.discard(future)
            if not future.cancelled():
                acks.put_nowait(self._ack(sequence, kind, future.result()))

        done.add_done_callback(settled)

    def _ack(self, sequence: int, kind: str, result: Result) -> pb.Ack:
        if isinstance(result, RecordConflictError):
            self._metrics.entries.labels(kind=kind, result="conflict").inc()
            conflict = FailedPreconditionError(
                "the record id was used before with other content", reason=Reason.RECORD_CONFLICT
            )
            return pb.Ack(sequence=sequence, error=to_status(conflict))
        self._metrics.entries.labels(kind=kind, result="durable").inc()
        receipt = entry_pb2.Receipt(
            log_id=result.log_id.hex(), index=result.index, leaf_hash=result.leaf, batch=result.batch
        )
        return pb.Ack(sequence=sequence, receipt=receipt)
