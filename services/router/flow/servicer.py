"""`tenantry.flow.v1.FlowService`: other routers' requests at this router's flow controller."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from grpc.aio import ServicerContext
from tenantry.flow.v1 import flow_service_pb2 as pb
from tenantry.flow.v1 import flow_service_pb2_grpc as rpc

from services.common.clock import Clock
from services.common.errors import (
    AbortedError,
    DeadlineExceededError,
    FieldViolation,
    InvalidArgumentError,
    Reason,
)
from services.router.flow.controller import FlowController, Member
from services.router.flow.events import ControllerEvent, Report, WitnessAck
from services.router.flow.mirror import Keeper, Mirror
from services.router.flow.wire import controller_event, of_report_parts, of_router_event

_REPORT_SECONDS = 5.0
_MAX_REPORT_PARTS = 1000
_ROLE_SECONDS = 2.0
"""How long a router waits here that heard of this controller before it did."""


class FlowServicer(rpc.FlowServiceServicer):
    """Serves the mesh's other routers.

    Args:
        controller: this process as flow controller.
        mirror: has a router keep what this one's own requests used.
        instance: of this process.
        clock: of deadlines.
    """

    def __init__(self, controller: FlowController, mirror: Mirror, instance: str, clock: Clock) -> None:
        self._controller = controller
        self._mirror = mirror
        self._instance = instance
        self._clock = clock
        self._changed: set[asyncio.Event] = set()

    def role_changed(self) -> None:
        """Look again: this process became the controller, or is it no longer."""
        for changed in self._changed:
            changed.set()

    async def Admit(
        self,
        request_iterator: AsyncIterator[pb.AdmitRequest],
        context: ServicerContext[Any, Any],  # noqa: ARG002 - gRPC passes it
    ) -> AsyncIterator[pb.AdmitResponse]:
        """Admit one router's requests for as long as it lives."""
        report, epoch = await self._report(request_iterator)
        changed = asyncio.Event()
        self._changed.add(changed)
        try:
            await self._reign_of(epoch, bool(report.held), changed)
            async for answers in self._admitted(report, request_iterator, changed):
                yield answers
        finally:
            self._changed.discard(changed)

    async def _admitted(
        self, report: Report, requests: AsyncIterator[pb.AdmitRequest], changed: asyncio.Event
    ) -> AsyncIterator[pb.AdmitResponse]:
        controller, epoch = self._controller, self._controller.epoch
        answers = _Answers(changed)
        yield pb.AdmitResponse(instance_id=self._instance)
        member = controller.report(report, answers.add, answers.open)
        keeper = self._mirror.add(answers.add)
        reading = asyncio.create_task(self._read(requests, member, keeper), name="flow requests")
        reading.add_done_callback(lambda _: changed.set())
        try:
            while not reading.done() and controller.epoch == epoch:
                await changed.wait()
                changed.clear()
                if (message := answers.take()) is not None:
                    yield message
            if reading.done():
                reading.result()
        finally:
            self._mirror.remove(keeper)
            said_goodbye = reading.done() and not reading.cancelled() and not reading.exception()
            if said_goodbye and reading.result():
                controller.left(member)
            else:
                controller.lost(member)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read(self, requests: AsyncIterator[pb.AdmitRequest], member: Member, keeper: Keeper) -> bool:
        """Take what a router says; returns whether it said goodbye."""
        async for request in requests:
            now = self._clock.monotonic_seconds()
            for said in request.events:
                event = of_router_event(said, now)
                if isinstance(event, WitnessAck):
                    self._mirror.kept(keeper, event.sequence)
                elif event is not None:
                    self._controller.receive(member, event)
            if request.goodbye:
                return True
        return False

    async def _report(self, requests: AsyncIterator[pb.AdmitRequest]) -> tuple[Report, int]:
        parts: list[pb.ReportPart] = []
        try:
            async with asyncio.timeout(_REPORT_SECONDS):
                async for request in requests:
                    parts.append(request.report)
                    if request.report.last or len(parts) >= _MAX_REPORT_PARTS:
                        break
        except TimeoutError:
            raise DeadlineExceededError("no report came in time") from None
        if not parts or not parts[-1].last or not parts[0].router or not parts[0].instance_id:
            raise InvalidArgumentError([FieldViolation("report", "has to be the first messages, whole")])
        return of_report_parts(parts, self._clock.monotonic_seconds()), parts[0].epoch

    async def _reign_of(self, epoch: int, holds: bool, changed: asyncio.Event) -> None:
        """Wait until this is the controller of an epoch.

        Raises:
            AbortedError: it is not.
        """

        def right() -> bool:
            # A router that holds nothing may have heard of an earlier epoch only.
            return self._controller.epoch == epoch or (not holds and self._controller.epoch > epoch)

        try:
            async with asyncio.timeout(_ROLE_SECONDS):
                while not right():
                    await changed.wait()
                    changed.clear()
        except TimeoutError:
            raise AbortedError(
                "this router is not the flow controller of that epoch", reason=Reason.CONCURRENT_CHANGE
            ) from None


class _Answers:
    """What a router is to be answered."""

    def __init__(self, changed: asyncio.Event) -> None:
        self._changed = changed
        self._events: list[ControllerEvent] = []
        self._serving = False

    def add(self, event: ControllerEvent) -> None:
        """Answer an event."""
        self._events.append(event)
        self._changed.set()

    def open(self) -> None:
        """Say that requests are taken."""
        self._serving = True
        self._changed.set()

    def take(self) -> pb.AdmitResponse | None:
        """All that is to be said now; None for nothing."""
        events, serving = self._events, self._serving
        if not events and not serving:
            return None
        self._events, self._serving = [], False
        return pb.AdmitResponse(events=[controller_event(event) for event in events], serving=serving)
