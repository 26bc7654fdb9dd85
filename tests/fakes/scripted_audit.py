"""Audit sinks a test can hold up or take away: in memory, and as a service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
from tenantry.audit.v1 import audit_append_service_pb2 as pb
from tenantry.audit.v1 import audit_append_service_pb2_grpc as rpc
from tenantry.audit.v1 import entry_pb2

from services.common.audit.writer import AuditEntry, AuditReceipt, AuditUnavailableError


class MemoryAudit:
    """Keeps entries; `durable` says when appends return, `down` whether they fail."""

    def __init__(self) -> None:
        self.entries: list[AuditEntry] = []
        self.connected = True
        self.down = False
        self.durable = asyncio.Event()
        self.durable.set()

    async def append(self, entry: AuditEntry, timeout_seconds: float) -> AuditReceipt:
        if self.down:
            raise AuditUnavailableError("down")
        self.entries.append(entry)
        index = len(self.entries)
        try:
            async with asyncio.timeout(timeout_seconds):
                await self.durable.wait()
        except TimeoutError:
            raise AuditUnavailableError("not in time") from None
        return AuditReceipt("log", index, b"l" * 32)

    def append_soon(self, entry: AuditEntry) -> bool:
        self.entries.append(entry)
        return True


class ScriptedAuditService(rpc.AuditAppendServiceServicer):
    """Acks every entry it is sent."""

    def __init__(self) -> None:
        self.entries: list[entry_pb2.AppendEntry] = []

    async def Append(
        self, request_iterator: AsyncIterator[pb.AppendRequest], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.AppendResponse]:
        async for request in request_iterator:
            if request.HasField("hello"):
                yield pb.AppendResponse(welcome=pb.SessionWelcome(max_outstanding_bytes=1 << 20))
                continue
            acks = []
            for entry in request.batch.entries:
                self.entries.append(entry)
                receipt = entry_pb2.Receipt(
                    log_id=entry.tenant_uid, index=len(self.entries), leaf_hash=b"l" * 32
                )
                acks.append(pb.Ack(sequence=entry.sequence, receipt=receipt))
            yield pb.AppendResponse(acks=pb.AckBatch(acks=acks))
