"""A router follows the highest epoch, and takes its part in it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from services.router.flow import role as role_module
from services.router.flow.assignment import Assignment
from services.router.flow.controller import FlowController
from services.router.flow.mirror import Mirror
from services.router.flow.requests import Requests
from services.router.flow.role import FlowRole
from services.router.limits.tenant_limiter import TenantLimiter
from services.router.pool.directory import PoolDirectory
from tests.fakes.manual_clock import ManualClock
from tests.fakes.mutants import without


def role_of(router: str, role_class: type[FlowRole] = FlowRole, clock: ManualClock | None = None) -> FlowRole:
    clock, own = clock or ManualClock(), TenantLimiter()
    pools = PoolDirectory(SimpleNamespace(ready=None), clock)
    controller = FlowController(pools, clock)
    requests = Requests(router, "i", own, pools.serves, clock)
    return role_class(requests, controller, Mirror(own, controller.rate_level, clock), None, clock)


def named(epoch: int, controller: str, *routers: str) -> Assignment:
    return Assignment(epoch, controller, f"unix:/{controller}", frozenset(routers or (controller,)))


async def controls_after(role: FlowRole, *assignments: Assignment) -> bool:
    running = asyncio.create_task(role.run())
    for assignment in assignments:
        role.assign(assignment)
        for _ in range(5):
            await asyncio.sleep(0)
    controls = role.controls
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return controls


async def test_a_router_that_is_named_is_the_controller():
    assert await controls_after(role_of("a"), named(1, "a"))


async def test_it_waits_for_the_reports_of_the_others():
    assert not await controls_after(role_of("a"), named(1, "a", "a", "b"))
    assert await controls_after(role_of("a"), named(1, "a", "a", "b"), named(1, "a", "a"))


async def test_it_stands_down_when_another_is_named():
    assert not await controls_after(role_of("a"), named(1, "a"), named(2, "b"))


async def test_an_older_name_changes_nothing():
    assert await controls_after(role_of("a"), named(2, "a"), named(1, "b"))


async def test_that_test_notices_an_epoch_that_falls():
    careless = without(role_module, "epochs-only-rise").FlowRole
    assert not await controls_after(role_of("a", careless), named(2, "a"), named(1, "b"))


async def test_requests_end_once_no_controller_was_reached_for_too_long(monkeypatch):
    assert await fenced(FlowRole, monkeypatch) == 1


async def test_that_test_notices_requests_that_run_on(monkeypatch):
    assert await fenced(without(role_module, "cut-off-routers-end-their-requests").FlowRole, monkeypatch) == 0


async def fenced(role_class: type[FlowRole], monkeypatch) -> int:
    """How often a router that holds a place and reaches nobody ends its requests, each tick being at once."""
    clock = ManualClock()
    role, calls, ticks = role_of("a", role_class, clock), 0, 0

    def fence() -> None:
        nonlocal calls
        calls += 1
        role._requests.unreached_since = None

    monkeypatch.setattr(role._requests, "fence", fence)
    monkeypatch.setattr(Requests, "holding", 1)
    role._requests.unreached_since = clock.monotonic_seconds()
    sleep = asyncio.sleep

    async def at_once(seconds: float) -> None:
        nonlocal ticks
        ticks += 1
        clock.advance(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", at_once)
    watching = asyncio.create_task(role._watch())
    while ticks < 100:
        await sleep(0)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    return calls
