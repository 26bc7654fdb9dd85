"""The flow controller is killed under load, again and again: no place and no limit is exceeded, and service goes on."""

from __future__ import annotations

import time

import pytest

from tests.fakes.flow_fleet import NAMES, FlowFleet
from tests.fakes.patience import promised

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
KILLS = 3
AGAIN_SECONDS = 3.0
PLACES = 4
CONCURRENT = 2
# A router that was just started has no config, and then knows of no server that is ready.
_EXPECTED = {"ok", "FLOW_UNAVAILABLE", "CONCURRENCY_LIMITED", "NO_SNAPSHOT", "NO_READY_ENDPOINT"}


async def kill_the_controller(fleet: FlowFleet, kills: int) -> list[float]:
    """Kill it under load; returns how long the others took to answer again, each time."""
    again = []
    await fleet.answers_of(set(NAMES), time.monotonic())
    for _ in range(kills):
        victim = fleet.controller
        killed_at = time.monotonic()
        await fleet.routers[victim].kill()
        again.append(await fleet.answers_of(set(NAMES) - {victim}, killed_at))
        await fleet.routers[victim].start()
        await fleet.answers_of({victim}, time.monotonic())
    await fleet.stop_callers()
    return again


def check_outcomes(fleet: FlowFleet) -> None:
    gone = {outcome for outcome in fleet.outcomes if outcome.endswith("is gone: UNAVAILABLE")}
    assert set(fleet.outcomes) - gone <= _EXPECTED, fleet.outcomes
    assert fleet.overdue == 0


async def test_no_place_is_exceeded_and_service_goes_on(tmp_path_factory):
    async with FlowFleet(tmp_path_factory.mktemp("f"), places=PLACES) as fleet:
        key = await fleet.new_tenant("acme")
        for router in NAMES:
            fleet.call_on(router, key, 4)
        again = await kill_the_controller(fleet, KILLS)
        assert fleet.triton.counts.most_running == PLACES
        check_outcomes(fleet)
        assert max(again) <= promised(AGAIN_SECONDS)


async def test_no_concurrency_is_exceeded(tmp_path_factory):
    async with FlowFleet(tmp_path_factory.mktemp("f"), places=64) as fleet:
        key = await fleet.new_tenant("acme", concurrent_requests=CONCURRENT)
        for router in NAMES:
            fleet.call_on(router, key, 2)
        await kill_the_controller(fleet, KILLS)
        assert fleet.triton.counts.most_running == CONCURRENT
        check_outcomes(fleet)


async def test_a_controller_that_stops_cleanly_is_followed_at_once(tmp_path_factory):
    async with FlowFleet(tmp_path_factory.mktemp("f"), places=PLACES) as fleet:
        key = await fleet.new_tenant("acme")
        first = fleet.controller
        others = set(NAMES) - {first}
        for router in others:
            fleet.call_on(router, key, 4)
        await fleet.answers_of(others, time.monotonic())
        assert await fleet.routers[first].end() == 0
        again = await fleet.answers_of(others, time.monotonic())
        await fleet.stop_callers()
        assert set(fleet.outcomes) == {"ok"}
        assert fleet.triton.counts.most_running == PLACES
        assert again <= promised(1.0)
