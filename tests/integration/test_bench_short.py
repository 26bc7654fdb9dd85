"""The bench runs and compares; how fast anything is, is not asserted here."""

from __future__ import annotations

import json
import math

import pytest

from scripts.bench.report import as_json, as_table
from scripts.bench.rounds import Plan, measure
from scripts.bench.routes import open_routes

pytestmark = pytest.mark.integration

PLAN = Plan(rounds=2, unary_requests=8, streams=2, stream_tokens=8, latency_requests=8, concurrency=2)


async def test_a_few_requests_give_every_figure(tmp_path):
    async with open_routes(tmp_path) as routes:
        comparisons = await measure(routes, PLAN, lambda step: None)
    assert len(comparisons) == 4
    for one in comparisons:
        assert math.isfinite(one.ratio)
    processor_time = [one for one in comparisons if one.name.startswith("CPU")]
    assert all(one.relay > 0 and one.router > 0 for one in processor_time)
    assert len(json.loads(as_json(comparisons, PLAN))["figures"]) == 4
    assert "CPU a streamed token" in as_table(comparisons, PLAN)
