"""The stream to a flow controller in another process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from tenantry.flow.v1 import flow_service_pb2 as pb
from tenantry.flow.v1 import flow_service_pb2_grpc as rpc

from services.common.clock import Clock
from services.router.flow.events import RouterEvent, Used, Witness, WitnessAck
from services.router.flow.requests import Requests
from services.router.flow.wire import of_controller_event, report_parts, router_event

_USED_SECONDS = 0.05
"""How long tokens are gathered before they are charged: a stream's own message for each would cost more than it."""


class RemoteLink:
    """Sends events in order and in batches; tokens are gathered, of each request the newest count."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._events: list[RouterEvent] = []
        self._used: dict[int, Used] = {}
        self._due = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._last = False
        self.taken = False
        """Whether the controller has taken the report."""

    def send(self, event: RouterEvent) -> None:
        """Send an event, after those sent before."""
        if isinstance(event, Used):
            self._used[event.number] = event
            if self._timer is None and not self._due.is_set():
                self._timer = asyncio.get_running_loop().call_later(_USED_SECONDS, self._due.set)
            return
        self._events.append(event)
        self._due.set()

    def finish(self) -> None:
        """Say goodbye after what was sent before."""
        self._last = True
        self._due.set()

    def close(self) -> None:
        """Send nothing any more."""
        if self._timer is not None:
            self._timer.cancel()

    async def batches(self) -> AsyncIterator[pb.AdmitRequest]:
        """What is to be sent, for as long as the stream lasts; ends after a goodbye."""
        while True:
            await self._due.wait()
            self._due.clear()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            now = self._clock.monotonic_seconds()
            # Tokens first: what ends a request has its newest count.
            events = [*self._used.values(), *self._events]
            self._used.clear()
            self._events = []
            yield pb.AdmitRequest(events=[router_event(event, now) for event in events], goodbye=self._last)
            if self._last:
                return


async def follow(
    channel: grpc.aio.Channel, requests: Requests, link: RemoteLink, epoch: int, clock: Clock
) -> None:
    """Have requests admitted by a controller until its stream ends.

    Raises:
        grpc.aio.AioRpcError: the controller refused, or was lost.
    """
    call: Any = rpc.FlowServiceStub(channel).Admit()
    # In one step: what happens from now on is sent after the report.
    report = requests.report()
    requests.link(link)
    writing = asyncio.create_task(_write(call, link, report_parts(report, epoch, clock.monotonic_seconds())))
    try:
        instance = ""
        async for message in call:
            if message.instance_id:
                instance, link.taken = message.instance_id, True
                requests.taken()
            if message.serving:
                requests.open()
            for said in message.events:
                event = of_controller_event(said)
                if isinstance(event, Witness):
                    requests.witness(instance, event.usage)
                    link.send(WitnessAck(event.sequence))
                elif event is not None:
                    requests.receive(event)
    finally:
        requests.unlink(link)
        link.close()
        writing.cancel()
        call.cancel()
        await asyncio.gather(writing, return_exceptions=True)


async def _write(call: Any, link: RemoteLink, parts: Any) -> None:
    for part in parts:
        await call.write(pb.AdmitRequest(report=part))
    async for batch in link.batches():
        await call.write(batch)
    await call.done_writing()
