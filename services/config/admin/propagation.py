"""Waits until all routers have applied a revision, and lists routers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from google.protobuf.timestamp_pb2 import Timestamp
from tenantry.config.v1 import config_admin_service_pb2 as pb
from tenantry.config.v1 import router_status_pb2 as status_pb

from services.common.errors import FieldViolation, InvalidArgumentError, Reason, ResourceExhaustedError
from services.config.admin.edits import Context, Edits
from services.config.admin.page_tokens import page
from services.config.discovery.registry import Progress, RouterRegistry
from services.config.discovery.router_status import RouterStatus, RouterView
from services.config.state.operators import PLATFORM_ADMIN, Operator

MAX_WAIT_SECONDS = 60.0
ANSWER_SECONDS = 0.1
"""The answer is sent this long before the caller's deadline."""
MAX_WAITS = 64
MAX_WAITS_OF_ONE_KEY = 8
_LOOK_AGAIN_SECONDS = 0.2
_STATES = {
    RouterStatus.CURRENT: status_pb.ROUTER_STATE_CURRENT,
    RouterStatus.APPLYING: status_pb.ROUTER_STATE_APPLYING,
    RouterStatus.REFUSED: status_pb.ROUTER_STATE_REFUSED,
    RouterStatus.UNREACHABLE: status_pb.ROUTER_STATE_UNREACHABLE,
}


class PropagationAdmin:
    """The admin RPCs of routers."""

    def __init__(self, edits: Edits, registry: RouterRegistry, recalled: asyncio.Event) -> None:
        self._edits = edits
        self._registry = registry
        self._recalled = recalled
        self._waits: Counter[str] = Counter()

    async def wait(
        self, request: pb.WaitForPropagationRequest, context: Context
    ) -> pb.WaitForPropagationResponse:
        """Wait until every known router has a revision, or until the others are known not to get it.

        At the deadline the answer names those that are missing; that is no error.
        """
        operator = self._edits.operator(context, request)
        if request.revision < 0:
            raise InvalidArgumentError([FieldViolation("revision", f"is {request.revision}, less than 0")])
        revision = request.revision or self._newest(operator)
        with self._counted(operator):
            progress = await self._settled(operator, revision, _seconds_to_wait(context))
        of_all_tenants = operator.role == PLATFORM_ADMIN
        return pb.WaitForPropagationResponse(
            revision=revision,
            complete=progress.complete,
            missing=[_missing(router, of_all_tenants=of_all_tenants) for router in progress.missing],
            applied_routers=progress.applied_routers,
        )

    async def list_page(self, request: pb.ListRoutersRequest, context: Context) -> pb.ListRoutersResponse:
        """List the known routers."""
        self._edits.operator(context, request).require_platform()
        self._look()
        found = [_status(router) for router in self._registry.routers()]
        chosen, token = page(
            found, lambda router: router.router, request.page_size, request.page_token, "routers"
        )
        return pb.ListRoutersResponse(routers=chosen, next_page_token=token)

    def _newest(self, operator: Operator) -> int:
        """The newest revision that this operator may know of; a tenant-admin must not see other tenants' edits."""
        state = self._edits.state
        if operator.role == PLATFORM_ADMIN:
            return state.revision
        return state.revision_by_tenant.get(operator.role_tenant_uid, 0)

    async def _settled(self, operator: Operator, revision: int, within_seconds: float) -> Progress:
        changed = self._edits.current.subscribe()
        stop_listening = self._registry.listen(changed.set)
        loop = asyncio.get_running_loop()
        until = loop.time() + within_seconds
        try:
            # Routers of an earlier process are not known before.
            await _within(self._recalled, within_seconds)
            while True:
                changed.clear()
                self._look()
                progress = self._registry.progress(revision)
                if operator.role != PLATFORM_ADMIN and revision > self._newest(operator):
                    # Routers' progress would show how often other tenants are edited.
                    progress = Progress(0, (), complete=False, settled=False)  # proven: own-revisions-only
                left = until - loop.time()
                if progress.complete or progress.settled or left <= 0:
                    return progress
                # A router's status changes with time alone too.
                await _within(changed, min(left, _LOOK_AGAIN_SECONDS))
        finally:
            stop_listening()
            self._edits.current.unsubscribe(changed)

    def _look(self) -> None:
        state = self._edits.state
        self._registry.newest(state.revision, state.records, state.history)

    @contextmanager
    def _counted(self, operator: Operator) -> Iterator[None]:
        if self._waits.total() >= MAX_WAITS or self._waits[operator.key_id] >= MAX_WAITS_OF_ONE_KEY:
            raise ResourceExhaustedError(
                "too many calls wait for propagation already", reason=Reason.CONCURRENCY_LIMITED
            )
        self._waits[operator.key_id] += 1
        try:
            yield
        finally:
            self._waits[operator.key_id] -= 1
            if not self._waits[operator.key_id]:
                del self._waits[operator.key_id]


async def _within(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(max(seconds, 0.0)):
            await event.wait()
    except TimeoutError:
        pass


def _seconds_to_wait(context: Context) -> float:
    left = cast("float | None", context.time_remaining())
    return MAX_WAIT_SECONDS if left is None else max(min(left - ANSWER_SECONDS, MAX_WAIT_SECONDS), 0.0)


def _missing(router: RouterView, *, of_all_tenants: bool) -> status_pb.RouterStatus:
    status = _status(router)
    if status.state == status_pb.ROUTER_STATE_CURRENT:
        # It has applied all there was; the revision has not reached this service yet.
        status.state = status_pb.ROUTER_STATE_APPLYING
    if not of_all_tenants:
        # Reasons name resources of all tenants, and revisions count the edits of all tenants.
        status.applied_revision = status.refused_revision = 0
        del status.reasons[:]  # proven: reasons-for-platform-admins
    return status


def _status(router: RouterView) -> status_pb.RouterStatus:
    heard = Timestamp()
    heard.FromNanoseconds(int(router.heard_wall_seconds * 1e9))
    return status_pb.RouterStatus(
        router=router.name,
        state=_STATES[router.status],
        applied_revision=router.applied_revision,
        refused_revision=router.refused_revision,
        reasons=router.reasons,
        heard_time=heard,
    )
