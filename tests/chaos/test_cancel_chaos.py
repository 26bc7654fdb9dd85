"""Five thousand streams that are opened and dropped."""

from __future__ import annotations

import pytest

from tests.fakes.cancel_storm import AT_ONCE, at_once, storm
from tests.fakes.flow_fleet import FlowFleet
from tests.integration.test_cancel_storms import MOST_GROWN, SCRIPT

pytestmark = [pytest.mark.integration, pytest.mark.chaos, pytest.mark.timeout(1200)]
STREAMS = 5000


async def test_dropped_streams_leave_nothing(tmp_path_factory, tell):
    async with FlowFleet(tmp_path_factory.mktemp("f"), places=AT_ONCE, script=SCRIPT) as fleet:
        key = await fleet.new_tenant("acme", concurrent_requests=AT_ONCE)
        await storm(fleet, key, 300)
        result = await storm(fleet, key, STREAMS)
        again = await at_once(fleet, key, AT_ONCE)
        tell.figure("streams dropped, refused", f"{result.dropped}, {result.refused}")
        tell.figure("most at once at the server", fleet.triton.counts.most_running, bar=f"<= {AT_ONCE}")
        tell.figure("at once afterwards", again, bar=f"= {AT_ONCE}")
        tell.figure(
            "the largest router grew by", f"{result.grown_bytes / (1 << 20):.1f} MiB", bar="<= 100 MiB"
        )
        assert result.dropped > STREAMS * 0.9
        assert fleet.triton.counts.most_running <= AT_ONCE
        assert again == AT_ONCE
        assert result.grown_bytes < MOST_GROWN
