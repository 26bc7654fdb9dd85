"""Append streams to a servicer in this process, without gRPC."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from typing import Any

from tenantry.audit.v1 import audit_append_service_pb2 as pb
from tenantry.audit.v1 import entry_pb2

from services.audit.metrics import AuditMetrics
from services.audit.rpc.append_servicer import AppendServicer
from services.audit.rpc.appender import Appender
from tests.unit.audit.audit_state import abandon, open_store

PLENTY_SECONDS = 10.0


class Service:
    """An appender and its servicer over a store; `held` keeps batches from being written."""

    def __init__(self, root) -> None:
        self.store = open_store(root)
        self.appender = Appender(self.store)
        self.servicer = AppendServicer(self.appender, self.store, AuditMetrics())

    def start(self) -> None:
        self.running = asyncio.create_task(self.appender.run())


@asynccontextmanager
async def service_on(root, *, started: bool = True):
    service = Service(root)
    if started:
        service.start()
    try:
        yield service
    finally:
        if hasattr(service, "running"):
            service.running.cancel()
            await asyncio.gather(service.running, return_exceptions=True)
        service.appender._disk.shutdown()
        abandon(service.store)


class Stream:
    """One stream; its acks by sequence."""

    def __init__(self, service: Service, session_id: bytes | None = None, **hello) -> None:
        self.session_id = session_id or os.urandom(16)
        self._requests: asyncio.Queue[pb.AppendRequest | None] = asyncio.Queue()
        self._requests.put_nowait(
            pb.AppendRequest(hello=pb.SessionHello(writer="w", session_id=self.session_id, **hello))
        )
        no_context: Any = None
        self._responses: Any = service.servicer.Append(self._incoming(), no_context)
        self.acks: dict[int, pb.Ack] = {}
        self.welcome: pb.SessionWelcome | None = None

    async def _incoming(self):
        while (request := await self._requests.get()) is not None:
            yield request

    async def open(self) -> Stream:
        async with asyncio.timeout(PLENTY_SECONDS):
            self.welcome = (await anext(self._responses)).welcome
        return self

    def send(self, *entries: entry_pb2.AppendEntry) -> None:
        self._requests.put_nowait(pb.AppendRequest(batch=pb.EntryBatch(entries=entries)))

    async def until(self, *sequences: int) -> list[pb.Ack]:
        async with asyncio.timeout(PLENTY_SECONDS):
            while not set(sequences) <= set(self.acks):
                response = await anext(self._responses)
                self.acks.update({ack.sequence: ack for ack in response.acks.acks})
        return [self.acks[sequence] for sequence in sequences]

    async def finish(self) -> None:
        self._requests.put_nowait(None)
        async with asyncio.timeout(PLENTY_SECONDS):
            async for response in self._responses:
                self.acks.update({ack.sequence: ack for ack in response.acks.acks})

    async def close(self) -> None:
        await self._responses.aclose()
