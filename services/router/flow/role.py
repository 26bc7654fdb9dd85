"""Follows which router is the flow controller: becomes it, or has requests admitted by it.

Between two controllers requests wait. A request that holds a place goes on, since the next controller counts it: unless
none is reached for so long that a controller may have counted this router out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, NoReturn

import grpc

from services.common.backoff import Backoff
from services.common.clock import Clock
from services.common.rpc.channel import open_channel
from services.common.rpc.targets import UNIX_PREFIX
from services.common.rpc.tls import TLSMaterial
from services.router.flow.assignment import Assignment, alone
from services.router.flow.controller import FENCE_SECONDS, FlowController, Member
from services.router.flow.events import RequestEvent
from services.router.flow.mirror import Mirror
from services.router.flow.remote_link import RemoteLink, follow
from services.router.flow.requests import Requests

_log = logging.getLogger(__name__)
_TICK_SECONDS = 0.1
_BACKOFF_BASE_SECONDS = 0.02
_BACKOFF_CAP_SECONDS = 0.2
_CUT_OFF_SECONDS = 0.8
"""As `FENCE_SECONDS`, where the config service is not reached either: it may have counted this router out."""


class _LocalLink:
    """A function call."""

    def __init__(self, controller: FlowController) -> None:
        self._controller = controller
        self.member: Member | None = None

    def send(self, event: RequestEvent) -> None:
        if self.member is not None:
            self._controller.receive(self.member, event)


class FlowRole:
    """This router's part in the flow control of its mesh.

    Args:
        requests: of this router.
        controller: this process as flow controller.
        mirror: has another router keep what requests here used.
        tls: for controllers on other hosts.
        clock: of deadlines.
        changed: called when this router became the controller, or is it no longer.
    """

    def __init__(
        self,
        requests: Requests,
        controller: FlowController,
        mirror: Mirror,
        tls: TLSMaterial | None,
        clock: Clock,
        changed: Callable[[], object] = lambda: None,
    ) -> None:
        self._requests = requests
        self._controller = controller
        self._mirror = mirror
        self._tls = tls
        self._clock = clock
        self._role_changed = changed
        self._assignment: Assignment | None = None
        self._assigned = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._link: RemoteLink | None = None
        self._leaving = False
        self._cut_off = False
        """Whether it stood down because others may have another controller by now."""
        self.config_connected = False
        """Whether the config service is reached."""

    @property
    def assignment(self) -> Assignment | None:
        """The newest one; None before the first."""
        return self._assignment

    @property
    def router(self) -> str:
        """This router's name."""
        return self._requests.router

    @property
    def controls(self) -> bool:
        """Whether this router is the flow controller and takes requests."""
        return self._controller.serving

    def assign(self, assignment: Assignment) -> None:
        """Follow an assignment; an older one than the one in force changes nothing."""
        known = self._assignment
        if known is not None and assignment.epoch < known.epoch:  # proven: epochs-only-rise
            return
        self._assignment = assignment
        same = known is not None and (known.epoch, known.controller) == (
            assignment.epoch,
            assignment.controller,
        )
        if self._cut_off or not same:
            self._cut_off = False
            _log.info("%s is the flow controller of epoch %d", assignment.controller, assignment.epoch)
            if known is not None and known.controller == self._requests.router and self._controller.epoch:
                # At once: the next one may begin as soon as this router has reported to it.
                self._stand_down()
            self._assigned.set()
        elif assignment.controller == self._requests.router:
            self._controller.expect_only(assignment.routers)

    def stand_alone(self) -> None:
        """Be the controller of this router alone, from now on."""
        self._assignment = alone(self.router)
        self._control(self._assignment)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run work of the controller beside `run`, which ends it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def run(self) -> NoReturn:
        """Take the part that is assigned, for as long as the process lives."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._watch(), name="watch flow control")
                while True:
                    await self._assigned.wait()
                    self._assigned.clear()
                    assignment = self._assignment
                    assert assignment is not None, "assigned nothing"
                    if assignment.controller == self._requests.router:
                        self._control(assignment)
                    else:
                        await self._follow(assignment)
        finally:
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def leave(self, within_seconds: float) -> None:
        """Say goodbye on a clean stop, after the last request, so that nothing is kept for this router."""
        self._leaving = True
        link = self._link
        if link is not None:
            link.finish()
            with suppress(TimeoutError):
                async with asyncio.timeout(within_seconds):
                    while self._link is link:  # noqa: ASYNC110 - ends with the stream, which has no event
                        await asyncio.sleep(0.01)

    def _control(self, assignment: Assignment) -> None:
        link = _LocalLink(self._controller)
        self._controller.begin(assignment.epoch, assignment.routers)
        report = self._requests.report()
        self._requests.link(link)
        self._requests.before_join = self._mirror.before_join
        self._requests.taken()
        link.member = self._controller.report(report, self._requests.receive, self._requests.open)
        self._role_changed()

    def _stand_down(self) -> None:
        self._requests.stop_asking()
        self._requests.before_join = lambda _: None
        self._controller.end()
        self._role_changed()

    async def _follow(self, assignment: Assignment) -> None:
        backoff, complained = Backoff(_BACKOFF_BASE_SECONDS, _BACKOFF_CAP_SECONDS), False
        changed = asyncio.create_task(self._assigned.wait())
        try:
            async with open_channel(assignment.target, self._tls) as channel:
                while not (changed.done() or self._leaving):
                    link = self._link = RemoteLink(self._clock)
                    following = asyncio.create_task(
                        follow(channel, self._requests, link, assignment.epoch, self._clock)
                    )
                    try:
                        await asyncio.wait({following, changed}, return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        following.cancel()
                        await asyncio.gather(following, return_exceptions=True)
                        self._link = None
                    failed = None if following.cancelled() else following.exception()
                    if failed is not None and not isinstance(
                        failed, grpc.aio.AioRpcError | asyncio.InvalidStateError | asyncio.CancelledError
                    ):
                        raise failed
                    if not changed.done():
                        if link.taken or not complained:
                            _log.warning("the flow controller's stream ended: %s", _cause(failed))
                        complained = True
                        if link.taken:
                            backoff.reset()
                        await asyncio.wait({changed}, timeout=backoff.next_delay_seconds())
        finally:
            changed.cancel()

    def _may_be_replaced(self) -> bool:
        """Whether this controller reaches neither the config service nor a router that may follow another one by now.

        On one host a stream ends because a process does; between hosts the network may have parted.
        """
        named = self._assignment
        between_hosts = named is not None and named.target and not named.target.startswith(UNIX_PREFIX)
        return bool(
            between_hosts
            and self._controller.epoch
            and not self.config_connected
            and not self._controller.settled  # proven: a-cut-off-controller-stops
        )

    async def _watch(self) -> NoReturn:
        """Give back what gone routers held, and end requests here once no controller was reached for too long."""
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            self.look()

    def look(self) -> None:
        """Look once at what time has changed."""
        self._controller.tick()
        if self._may_be_replaced():
            _log.error(
                "cut off from the config service and from a router: another may control the flow by now"
            )
            self._cut_off = True
            self._stand_down()
        since = self._requests.unreached_since
        if since is None or not self._requests.holding:
            return
        limit = FENCE_SECONDS if self.config_connected else _CUT_OFF_SECONDS
        if self._clock.monotonic_seconds() >= since + limit:
            self._requests.fence()  # proven: cut-off-routers-end-their-requests


def _cause(failed: BaseException | None) -> str:
    if isinstance(failed, grpc.aio.AioRpcError):
        return failed.code().name
    return "without an error" if failed is None else type(failed).__name__
