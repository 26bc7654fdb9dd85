"""`tenantry.flow.v1.FlowService`: other routers' requests at this router's flow controller."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
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
from services.router.flow.controller import FlowController
from services.router.flow.events import ControllerEvent, Report, WitnessAck
from services.router.flow.mirror import Mirror
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
        answers: list[ControllerEvent] = []
        serving = False

        def answer(event: ControllerEvent) -> None:
            answers.append(event)
            changed.set()

        def opened() -> None:
            nonlocal serving
            serving = True
            changed.set()

        yield pb.AdmitResponse(instance_id=self._instance)
        member = controller.report(report, answer, opened)
        keeper = self._mirror.add(answer)
        goodbye = asyncio.Event()

        async def read() -> None:
            async for request in requests:
                now = self._clock.monotonic_seconds()
                for said in request.events:
                    event = of_router_event(said, now)
                    if isinstance(event, WitnessAck):
                        self._mirror.kept(keeper, event.sequence)
                    elif event is not None:
                        controller.receive(member, event)
                if request.goodbye:
                    goodbye.set()
                    return

        reading = asyncio.create_task(read(), name="flow requests")
        reading.add_done_callback(lambda _: changed.set())
        try:
            while not reading.done() and controller.epoch == epoch:
                await changed.wait()
                changed.clear()
                events, answers[:] = answers[:], []
                if events or serving:
                    message = pb.AdmitResponse(
                        events=[controller_event(event) for event in events], serving=serving
                    )
                    serving = False
                    yield message
            if reading.done():
                reading.result()
        finally:
            self._mirror.remove(keeper)
            if goodbye.is_set():
                controller.left(member)
            else:
                controller.lost(member)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

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


Answer = Callable[[ControllerEvent], object]
