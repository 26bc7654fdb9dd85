"""Routers of one mesh share limits, places and queues; deaths, one by one."""

from __future__ import annotations

import pytest

from services.common.errors import Reason, ResourceExhaustedError, UnavailableError
from services.router.flow import controller as controller_module
from services.router.flow import requests as requests_module
from services.router.flow import session as session_module
from services.router.flow.controller import FENCE_SECONDS, GRACE_SECONDS, FlowController
from services.router.flow.requests import Requests
from services.router.flow.session import Session
from services.router.pool.demand import Cost
from tests.fakes.flow_mesh import LIMITS, POOL, FlowMesh
from tests.fakes.mutants import without

SMALL = Cost(5, 5)
NAMES = ("router-1", "router-2", "router-3")


@pytest.fixture
async def mesh():
    made = FlowMesh()
    made.random.randint = lambda low, high: high
    for name in NAMES:
        made.start(name)
        await made.calm()
    yield made
    await made.close()


async def starts(mesh: FlowMesh, router: str, tenant: str, cost: Cost = SMALL) -> None:
    """Ask, and deliver all messages, while the server does no step."""
    mesh.routers[router].ask(tenant, cost)
    await arrive(mesh)


async def arrive(mesh: FlowMesh) -> None:
    for _ in range(200):
        await mesh.tell()
        for router in mesh.routers.values():
            if router.alive:
                router.connect()
        mesh.connections = [one for one in mesh.connections if not one.broken]
        busy = [one for one in mesh.connections if one.up or one.down]
        if not busy:
            return
        for connection in busy:
            await mesh.deliver(connection, up=True)
            await mesh.deliver(connection, up=False)
    raise AssertionError("messages without end")


async def test_the_longest_there_is_the_controller_and_all_of_them_serve(mesh):
    assert mesh.naming.assignment().controller == "router-1"
    for name in NAMES:
        await starts(mesh, name, name)
    assert len(mesh.server.running) == 3
    await mesh.calm()
    assert (mesh.answered, mesh.refused) == (3, [])


@pytest.mark.parametrize("limit", ["concurrent_requests", "places"])
async def test_requests_of_three_routers_race_for_the_last_of_it(mesh, limit):
    tenants = ["a"] * 6 if limit == "concurrent_requests" else list("abcdef")
    for number, tenant in enumerate(tenants):
        mesh.routers[NAMES[number % 3]].ask(tenant, SMALL)
    await arrive(mesh)
    most = LIMITS.concurrent_requests if limit == "concurrent_requests" else POOL.concurrent_requests
    assert len(mesh.server.running) == most
    reasons = [error.reason for error in mesh.refused]
    assert reasons == ([Reason.CONCURRENCY_LIMITED] * 3 if limit == "concurrent_requests" else [])
    await mesh.calm()
    assert mesh.answered == (3 if limit == "concurrent_requests" else 6)
    assert mesh.server.faults == set()


async def test_requests_of_three_routers_race_for_the_last_tokens_of_a_minute(mesh):
    for number in range(6):
        mesh.routers[NAMES[number % 3]].ask("a", Cost(90, 10))
        await arrive(mesh)
        await mesh.calm()
        await mesh.tick(0.5)
    assert mesh.answered == 3
    assert {error.reason for error in mesh.refused} == {Reason.RATE_LIMITED}


async def test_requests_of_three_routers_share_a_rate(mesh):
    for number in range(12):
        mesh.routers[NAMES[number % 3]].ask("a", Cost(1, 1))
        await arrive(mesh)
        await mesh.calm()
    assert mesh.answered == LIMITS.request_burst + 1
    assert {error.reason for error in mesh.refused} == {Reason.RATE_LIMITED}


@pytest.mark.parametrize("victim", NAMES)
async def test_a_death_takes_nothing_from_those_that_live(mesh, victim):
    for name in NAMES:
        await starts(mesh, name, name)
    await mesh.kill(victim)
    await mesh.tick(1.0)
    await arrive(mesh)
    assert len(mesh.server.running) == 2
    living = [name for name in NAMES if name != victim]
    await starts(mesh, living[0], "late")
    assert len(mesh.server.running) == 3
    await mesh.calm()
    assert (mesh.answered, mesh.refused, mesh.server.faults) == (3, [], set())


async def test_what_waits_when_the_controller_dies_is_asked_anew(mesh):
    for tenant in "abcd":
        await starts(mesh, "router-2", tenant)
    await starts(mesh, "router-3", "e")
    assert len(mesh.server.running) == POOL.concurrent_requests
    await mesh.kill("router-1")
    await mesh.tick(1.0)
    await mesh.calm()
    assert (mesh.answered, mesh.refused, mesh.server.faults) == (5, [], set())


async def used_by_a_dead_router(mesh: FlowMesh) -> bool:
    """Whether the tokens of a router that died count on: another router's request does not fit beside them."""
    await starts(mesh, "router-2", "a", Cost(10, 190))
    await mesh.kill("router-2")
    await mesh.tick(1.0)
    await arrive(mesh)
    await mesh.tick(GRACE_SECONDS)
    await starts(mesh, "router-3", "a", Cost(10, 190))
    return [error.reason for error in mesh.refused] == [Reason.RATE_LIMITED]


async def test_what_a_dead_router_used_counts_for_its_minute(mesh):
    assert await used_by_a_dead_router(mesh)


async def test_that_test_notices_what_is_forgotten(mesh, monkeypatch):
    careless = without(session_module, "gone-routers-used-it-all")
    monkeypatch.setattr(session_module, "_Asked", careless._Asked)
    assert not await used_by_a_dead_router(mesh)


async def places_after_a_lost_stream(mesh: FlowMesh) -> int:
    """How many run once a router lost its stream, while its requests still run."""
    for tenant in "abcd":
        await starts(mesh, "router-2", tenant)
    connection = mesh.routers["router-2"].connection
    assert connection is not None
    connection.break_off()
    mesh.cut_off.add("router-2")
    await starts(mesh, "router-3", "e")
    return len(mesh.server.running)


async def test_places_are_kept_for_a_router_that_may_come_back(mesh):
    assert await places_after_a_lost_stream(mesh) == POOL.concurrent_requests
    mesh.cut_off.clear()
    await mesh.calm()
    assert (mesh.answered, mesh.refused, mesh.server.faults) == (5, [], set())


async def test_that_test_notices_a_session_that_gives_back_at_once(mesh, monkeypatch):
    monkeypatch.setattr(FlowController, "lost", lambda controller, member: Session.close(member.session))
    assert await places_after_a_lost_stream(mesh) > POOL.concurrent_requests


async def runs_beyond_the_grace(mesh: FlowMesh) -> set[str]:
    """What is exceeded when a router stays cut off, and its places are given to others."""
    await places_after_a_lost_stream(mesh)
    await mesh.tick(GRACE_SECONDS + 0.5)
    await arrive(mesh)
    return mesh.server.faults


async def test_a_router_that_is_cut_off_ends_its_requests_before_their_places_are_given_away(mesh):
    assert FENCE_SECONDS < GRACE_SECONDS
    assert await runs_beyond_the_grace(mesh) == set()
    assert [type(error) for error in mesh.refused] == [UnavailableError] * 4
    assert {error.reason for error in mesh.refused} == {Reason.FLOW_UNAVAILABLE}


async def test_that_test_notices_a_router_that_goes_on(mesh, monkeypatch):
    monkeypatch.setattr(Requests, "fence", lambda requests: None)
    assert await runs_beyond_the_grace(mesh) == {"places"}


async def test_a_refused_arrival_is_refused_at_once_at_the_controller(mesh):
    for _ in range(LIMITS.concurrent_requests):
        await starts(mesh, "router-2", "a")
    await starts(mesh, "router-1", "a")
    assert [type(error) for error in mesh.refused] == [ResourceExhaustedError]


async def handed_on(mesh: FlowMesh) -> int:
    """Places in use after the caller left in the moment that it was granted one."""
    router = mesh.routers["router-2"]
    router.ask("a", SMALL)
    await mesh.settle()
    connection = router.connection
    assert connection is not None
    while not router.requests.holding:
        if connection.up:
            connection.deliver_up()
        if connection.down:
            connection.deliver_down()
        if not router.requests.holding:
            await mesh.settle()
    for task in router.tasks:
        task.cancel()
    await mesh.calm()
    return mesh.routers["router-1"].pools.pools[POOL.name].in_flight


async def test_a_place_that_is_granted_to_a_caller_that_leaves_is_free(mesh):
    assert await handed_on(mesh) == 0


async def test_that_test_notices_a_place_that_is_lost(mesh, monkeypatch):
    careless = without(requests_module, "grant-handed-on")
    monkeypatch.setattr(Requests, "acquire", careless.Requests.acquire)
    assert await handed_on(mesh) == 1


async def test_the_next_controller_knows_what_tenants_were_given(mesh):
    await starts(mesh, "router-2", "a")
    await mesh.calm()
    before = mesh.routers["router-1"].pools.pools[POOL.name].counter("a")
    await starts(mesh, "router-2", "a")
    await mesh.kill("router-1")
    await mesh.tick(1.0)
    await arrive(mesh)
    assert mesh.routers["router-2"].controller.serving
    assert mesh.routers["router-2"].pools.pools[POOL.name].counter("a") >= before > 0


async def used_before_two_deaths(mesh: FlowMesh) -> bool:
    """Whether the tokens of a router that died count on, once the controller that knew of them died as well."""
    await starts(mesh, "router-2", "a", Cost(10, 190))
    for victim in ("router-2", "router-1"):
        await mesh.kill(victim)
        await mesh.tick(1.0)
        await arrive(mesh)
    await starts(mesh, "router-3", "a", Cost(10, 190))
    return [error.reason for error in mesh.refused] == [Reason.RATE_LIMITED]


async def test_what_a_dead_router_used_outlives_the_controller_that_knew(mesh):
    assert await used_before_two_deaths(mesh)


async def test_that_test_notices_a_controller_that_keeps_it_to_itself(mesh, monkeypatch):
    careless = without(controller_module, "what-the-gone-spent-is-kept")
    monkeypatch.setattr(FlowController, "_close", careless.FlowController._close)
    assert not await used_before_two_deaths(mesh)
