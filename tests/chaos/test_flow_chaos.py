"""Fifty kills of the flow controller under load, for places and for concurrency."""

from __future__ import annotations

import statistics

import pytest

from tests.fakes.flow_fleet import NAMES, FlowFleet
from tests.fakes.patience import promised
from tests.integration.test_flow_kills import (
    AGAIN_SECONDS,
    CONCURRENT,
    PLACES,
    check_outcomes,
    kill_the_controller,
)

pytestmark = [pytest.mark.integration, pytest.mark.chaos, pytest.mark.timeout(1800)]
KILLS = 50


@pytest.mark.parametrize(("places", "concurrent"), [(PLACES, 1000), (64, CONCURRENT)])
async def test_kills_exceed_nothing(tmp_path_factory, tell, places, concurrent):
    async with FlowFleet(tmp_path_factory.mktemp("f"), places=places) as fleet:
        key = await fleet.new_tenant("acme", concurrent_requests=concurrent)
        for router in NAMES:
            fleet.call_on(router, key, 4)
        again = await kill_the_controller(fleet, KILLS)
        most = fleet.triton.counts.most_running
        tell.figure("kills", KILLS)
        tell.figure("most at once at the server", most, bar=f"= {min(places, concurrent)}")
        tell.figure(
            "others answer again, median and worst",
            f"{statistics.median(again):.2f} s, {max(again):.2f} s",
            bar=f"<= {AGAIN_SECONDS:.0f} s",
        )
        tell.figure("outcomes", ", ".join(f"{count} {outcome}" for outcome, count in fleet.outcomes.items()))
        assert most == min(places, concurrent)
        check_outcomes(fleet)
        assert max(again) <= promised(AGAIN_SECONDS)
