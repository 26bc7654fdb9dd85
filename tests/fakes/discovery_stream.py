"""One router's stream of a discovery servicer in the same process: no socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from tenantry.config.v1 import config_discovery_service_pb2 as pb

from services.config.discovery.servicer import DiscoveryServicer
from tests.fakes.patience import PATIENCE_SECONDS


class Stream:
    """One router's stream of an in-process discovery servicer."""

    def __init__(self, servicer: DiscoveryServicer) -> None:
        self.requests: asyncio.Queue[pb.StreamSnapshotsRequest] = asyncio.Queue()
        context: Any = None  # the servicer does not look at it
        self.answers = servicer.StreamSnapshots(self._sent(), context)

    async def _sent(self) -> AsyncIterator[pb.StreamSnapshotsRequest]:
        while True:
            yield await self.requests.get()

    async def hello(self, router: str = "r1") -> None:
        await self.requests.put(pb.StreamSnapshotsRequest(hello=pb.RouterHello(router=router)))

    async def next(self, kind: str) -> Any:
        """The next message of a kind; the other kind is skipped, a chunk never silently."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            async for message in self.answers:
                if message.WhichOneof("message") == kind:
                    return getattr(message, kind)
                if message.HasField("statement"):
                    continue
                assert kind == "chunk", f"a chunk of revision {message.chunk.revision} came instead"
        raise AssertionError("the stream ended")

    async def ack(self, chunk: pb.SnapshotChunk) -> None:
        await self.requests.put(
            pb.StreamSnapshotsRequest(ack=pb.SnapshotAck(nonce=chunk.nonce, revision=chunk.revision))
        )

    async def nack(self, chunk: pb.SnapshotChunk, reason: str = "no") -> None:
        await self.requests.put(
            pb.StreamSnapshotsRequest(
                nack=pb.SnapshotNack(nonce=chunk.nonce, revision=chunk.revision, reasons=[reason])
            )
        )

    async def goodbye(self) -> None:
        await self.requests.put(pb.StreamSnapshotsRequest(goodbye=pb.RouterGoodbye()))

    async def ends(self) -> None:
        """Wait for the end of the stream; messages before it are skipped."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            async for _ in self.answers:
                pass

    async def report(self, *counts: pb.OutcomeCount) -> None:
        await self.requests.put(pb.StreamSnapshotsRequest(outcomes=pb.OutcomeReport(counts=counts)))
