"""Streams that are opened and dropped leave nothing: no work at the server, no place, no count, no memory."""

from __future__ import annotations

import pytest

from tests.fakes.cancel_storm import AT_ONCE, at_once, storm
from tests.fakes.flow_fleet import FlowFleet
from tests.fakes.scripted_triton.script import Script

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
STREAMS = 300
MOST_GROWN = 100 << 20
SCRIPT = Script(tokens=None, first_token=3, vocabulary_tokens=97, token_delay_seconds=0.05)


async def test_dropped_streams_leave_nothing(tmp_path_factory):
    # As many places and requests at once as the storm has: one that is lost is missed afterwards.
    async with FlowFleet(tmp_path_factory.mktemp("f"), places=AT_ONCE, script=SCRIPT) as fleet:
        key = await fleet.new_tenant("acme", concurrent_requests=AT_ONCE)
        assert await at_once(fleet, key, AT_ONCE) == AT_ONCE
        result = await storm(fleet, key, STREAMS)
        assert result.dropped > STREAMS * 0.9
        assert fleet.triton.counts.most_running <= AT_ONCE
        assert await at_once(fleet, key, AT_ONCE) == AT_ONCE
        assert await at_once(fleet, key, AT_ONCE + 6) == AT_ONCE
        assert result.grown_bytes < MOST_GROWN
