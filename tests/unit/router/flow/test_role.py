"""A router follows the highest epoch, and takes its part in it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from services.router.flow import role as role_module
from services.router.flow.assignment import Assignment
from services.router.flow.controller import FlowController
from services.router.flow.events import Report
from services.router.flow.mirror import Mirror
from services.router.flow.requests import Requests
from services.router.flow.role import FlowRole
from services.router.limits.tenant_limiter import TenantLimiter
from services.router.pool.directory import PoolDirectory
from tests.fakes.manual_clock import ManualClock
from tests.fakes.mutants import changed, without


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
    """How often a router that holds a place and reaches nobody ends its requests within ten seconds."""
    clock, calls = ManualClock(), 0
    role = role_of("a", role_class, clock)

    def fence() -> None:
        nonlocal calls
        calls += 1
        role._requests.unreached_since = None

    monkeypatch.setattr(role._requests, "fence", fence)
    monkeypatch.setattr(Requests, "holding", 1)
    role._requests.unreached_since = clock.monotonic_seconds()
    for _ in range(100):
        clock.advance(0.1)
        role.look()
    return calls


async def controls_when_cut_off(
    target: str, *, connected: bool, role_class: type[FlowRole] = FlowRole
) -> list[bool]:
    """Whether a controller goes on that lost a router, and once the config service names it again."""
    role = role_of("a", role_class)
    assignment = Assignment(1, "a", target, frozenset({"a", "b"}))
    running = asyncio.create_task(role.run())
    role.assign(assignment)
    await asyncio.sleep(0)
    member = role._controller.report(Report("b", "i"), lambda answer: None, lambda: None)
    role._controller.lost(member)
    role.config_connected = connected
    role.look()
    controls = [role.controls]
    role.config_connected = True
    role.assign(Assignment(1, "a", target, frozenset({"a"})))
    for _ in range(5):
        await asyncio.sleep(0)
    controls.append(role.controls)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return controls


async def test_a_controller_that_others_may_have_replaced_stops_until_it_is_named_again():
    assert await controls_when_cut_off("10.0.0.1:1", connected=False) == [False, True]


@pytest.mark.parametrize(("target", "connected"), [("10.0.0.1:1", True), ("unix:/a", False)])
async def test_one_that_cannot_have_been_replaced_goes_on(target, connected):
    assert await controls_when_cut_off(target, connected=connected) == [True, True]


async def test_that_test_notices_a_controller_that_goes_on():
    careless = changed(role_module, "a-cut-off-controller-stops", "return False").FlowRole
    assert await controls_when_cut_off("10.0.0.1:1", connected=False, role_class=careless) == [True, True]
