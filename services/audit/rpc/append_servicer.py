"""The append stream: one hello, then batches in and acks out for as long as the writer lives."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator

from grpc.aio import ServicerContext
from tenantry.audit.v1 import audit_append_service_pb2 as pb
from tenantry.audit.v1 import audit_append_service_pb2_grpc, entry_pb2

from services.audit.logs.sessions import MAX_RANGES, WriterSession
from services.audit.logs.store import LogStore, Result
from services.audit.logs.tenant_log import LogDamagedError, Receipt
from services.audit.metrics import AuditMetrics
from services.audit.proofs.entry import ID_BYTES, EntryKind
from services.audit.rpc.ack_queue import AckQueue
from services.audit.rpc.appender import MAX_TENANT_WAITING_BYTES, Appender
from services.audit.rpc.intake import parse_entry
from services.audit.rpc.receipt_check import check_receipts
from services.audit.storage.journal_position import MAX_SESSIONS
from services.common.errors import (
    Error,
    FailedPreconditionError,
    FieldViolation,
    InvalidArgumentError,
    Reason,
    ResourceExhaustedError,
)
from services.common.rpc.status import to_status

MAX_BATCH_MESSAGE_ENTRIES = 256
RECEIPT_CHECK_SECONDS = 1.0
"""How long a welcome waits for the check of the writer's receipts. The check goes on beside the stream."""


class AppendServicer(audit_append_service_pb2_grpc.AuditAppendServiceServicer):
    """Takes entries from the mesh's own writers."""

    def __init__(self, appender: Appender, store: LogStore, metrics: AuditMetrics) -> None:
        self._appender = appender
        self._metrics = metrics
        self._sessions: OrderedDict[bytes, WriterSession] = OrderedDict(
            (session_id, WriterSession.of(mark)) for session_id, mark in store.sessions.items()
        )

    async def Append(
        self,
        request_iterator: AsyncIterator[pb.AppendRequest],
        context: ServicerContext[pb.AppendRequest, pb.AppendResponse],  # noqa: ARG002 - gRPC passes it
    ) -> AsyncIterator[pb.AppendResponse]:
        """Append batches. Acks come in any order, each when its entry is durable."""
        first = await anext(request_iterator, None)
        session = self._session(first)
        assert first is not None
        check = asyncio.create_task(
            check_receipts(self._appender, first.hello.newest_receipts), name="audit-receipt-check"
        )
        acks = AckQueue()
        reader: asyncio.Task[None] | None = None
        try:
            await asyncio.wait([check], timeout=RECEIPT_CHECK_SECONDS)
            self._metrics.writers.inc()
            yield pb.AppendResponse(
                welcome=pb.SessionWelcome(
                    durable_sequence=session.durable_sequence, max_outstanding_bytes=MAX_TENANT_WAITING_BYTES
                )
            )
            reader = asyncio.create_task(
                self._read(request_iterator, session, acks), name="audit-append-reader"
            )
            while ready := await acks.take():
                yield pb.AppendResponse(acks=pb.AckBatch(acks=ready))
            await reader
            await check
        finally:
            tasks = [check, *([reader] if reader is not None else [])]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _session(self, first: pb.AppendRequest | None) -> WriterSession:
        if first is None or first.WhichOneof("message") != "hello":
            raise InvalidArgumentError([FieldViolation("hello", "has to be the first message")])
        session_id = first.hello.session_id
        if len(session_id) != ID_BYTES:
            raise InvalidArgumentError(
                [FieldViolation("hello.session_id", f"has {len(session_id)} bytes, not {ID_BYTES}")]
            )
        session = self._sessions.setdefault(session_id, WriterSession(session_id))
        self._sessions.move_to_end(session_id)
        if len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)
        session.writer = first.hello.writer
        session.settled.add_below(first.hello.lowest_unsettled_sequence)
        return session

    async def _read(
        self, requests: AsyncIterator[pb.AppendRequest], session: WriterSession, acks: AckQueue
    ) -> None:
        outstanding: set[asyncio.Future[Result]] = set()
        try:
            async for request in requests:
                count = len(request.batch.entries)
                if count > MAX_BATCH_MESSAGE_ENTRIES:
                    said = f"has {count} entries, more than {MAX_BATCH_MESSAGE_ENTRIES}"
                    raise InvalidArgumentError([FieldViolation("batch.entries", said)])
                if len(session.settled.ranges) >= MAX_RANGES:
                    raise InvalidArgumentError(
                        [FieldViolation("sequence", "counts up from 1, without holes")]
                    )
                for message in request.batch.entries:
                    await acks.room()
                    acks.expect()
                    self._take(message, session, acks, outstanding)
            if outstanding:
                await asyncio.wait(outstanding)
        finally:
            acks.close()

    def _take(
        self,
        message: entry_pb2.AppendEntry,
        session: WriterSession,
        acks: AckQueue,
        outstanding: set[asyncio.Future[Result]],
    ) -> None:
        sequence = message.sequence
        try:
            _check_order(message, session)
            entry = parse_entry(message, session.session_id, session.writer)
            done = self._appender.submit(entry, session, sequence)
        except Error as error:
            for_good = isinstance(error, InvalidArgumentError)
            session.refuse(message.record_id, for_now=not for_good)
            if for_good:
                session.settled.add(sequence)
                self._metrics.entries.labels(kind="invalid", result="refused").inc()
            acks.put(pb.Ack(sequence=sequence, error=to_status(error)))
            return
        session.take(message.record_id)
        outstanding.add(done)
        kind = EntryKind(message.kind).name.lower()

        def settled(future: asyncio.Future[Result]) -> None:
            outstanding.discard(future)
            if not future.cancelled():
                acks.put(self._ack(sequence, kind, future.result()))

        done.add_done_callback(settled)

    def _ack(self, sequence: int, kind: str, result: Result) -> pb.Ack:
        if isinstance(result, Receipt):
            self._metrics.entries.labels(kind=kind, result="durable").inc()
            receipt = entry_pb2.Receipt(
                log_id=result.log_id.hex(), index=result.index, leaf_hash=result.leaf, batch=result.batch
            )
            return pb.Ack(sequence=sequence, receipt=receipt)
        if isinstance(result, LogDamagedError):
            name: str = "damaged"
            refusal: FailedPreconditionError = result
        else:
            name, refusal = "conflict", FailedPreconditionError(str(result), reason=Reason.RECORD_CONFLICT)
        self._metrics.entries.labels(kind=kind, result=name).inc()
        return pb.Ack(sequence=sequence, error=to_status(refusal))


def _check_order(message: entry_pb2.AppendEntry, session: WriterSession) -> None:
    """Refuse an outcome whose admit is not in the log.

    Raises:
        ResourceExhaustedError: the admit found the queue full; its outcome has to wait too.
        InvalidArgumentError: the admit was refused for good.
    """
    waits = session.refused_for_now(message.admit_record_id)
    if waits is None:
        return
    if waits:
        raise ResourceExhaustedError(
            "the admit of this outcome is still waiting", reason=Reason.QUEUE_FULL, retry_after_seconds=0.1
        )
    raise InvalidArgumentError([FieldViolation("admit_record_id", "names an entry that was refused")])
