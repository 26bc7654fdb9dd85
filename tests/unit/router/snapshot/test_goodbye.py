"""A router's goodbye is the last thing it says: nothing that is written after it may cancel it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import grpc
import pytest
from tenantry.config.v1 import config_discovery_service_pb2 as pb

from services.router.snapshot import config_client
from services.router.snapshot.config_state import ConfigState
from services.router.snapshot.outcomes import OutcomeCounts
from tests.fakes.manual_clock import ManualClock
from tests.fakes.mutants import without

HEARTBEAT = pb.StreamSnapshotsResponse(heartbeat=pb.Heartbeat(etcd_connected=True))


class Stream:
    """A call as gRPC has it: closed for writing once it is half-closed, and over once it is cancelled."""

    def __init__(self) -> None:
        self.answers: asyncio.Queue[object] = asyncio.Queue()
        self.half_closed = asyncio.Event()
        self.reads: asyncio.Queue[None] = asyncio.Queue()
        self.written: list[str] = []
        self.events: list[str] = []

    async def write(self, message):
        if self.half_closed.is_set():
            raise asyncio.InvalidStateError
        self.written.append(message.WhichOneof("message"))

    async def done_writing(self):
        self.half_closed.set()

    async def read(self):
        self.reads.put_nowait(None)
        answer = await self.answers.get()
        if answer is grpc.aio.EOF:
            self.events.append("ended by the service")
        return answer

    def cancel(self):
        self.events.append("cancelled")


async def leave(module, monkeypatch) -> Stream:
    """The stream of a router that left while a heartbeat came."""
    stream = Stream()
    stub = SimpleNamespace(StreamSnapshots=lambda: stream)
    monkeypatch.setattr(module.rpc, "ConfigDiscoveryServiceStub", lambda _channel: stub)
    client = module.ConfigClient(
        None,
        router="r1",
        state=ConfigState(ManualClock()),
        load_text_model=None,
        on_snapshot=lambda _snapshot: None,
        outcomes=OutcomeCounts(),
        metrics=None,
    )
    running = asyncio.create_task(client.run())
    await stream.reads.get()
    leaving = asyncio.create_task(client.leave(5.0))
    await stream.half_closed.wait()
    stream.answers.put_nowait(HEARTBEAT)
    ended = asyncio.create_task(stream.reads.get())
    await asyncio.wait({ended, leaving}, return_when=asyncio.FIRST_COMPLETED)
    stream.answers.put_nowait(grpc.aio.EOF)
    await leaving
    for task in (running, ended):
        task.cancel()
    await asyncio.gather(running, ended, return_exceptions=True)
    return stream


async def test_a_heartbeat_after_the_goodbye_does_not_cancel_it(monkeypatch):
    stream = await leave(config_client, monkeypatch)
    assert stream.written == ["hello", "goodbye"]
    assert stream.events[0] == "ended by the service"


async def test_that_test_fails_where_reports_are_sent_after_the_goodbye(monkeypatch):
    stream = await leave(without(config_client, "nothing-after-the-goodbye"), monkeypatch)
    assert stream.events[0] == "cancelled"


@pytest.mark.parametrize("kind", ["ack", "nack", "outcomes"])
async def test_nothing_but_the_goodbye_is_sent_once_the_router_leaves(kind):
    client = config_client.ConfigClient.__new__(config_client.ConfigClient)
    client._write, client._leaving, stream = asyncio.Lock(), True, Stream()
    message = pb.StreamSnapshotsRequest()
    getattr(message, kind).SetInParent()
    await client._send(stream, message)
    await client._send(stream, pb.StreamSnapshotsRequest(goodbye=pb.RouterGoodbye()))
    assert stream.written == ["goodbye"]
