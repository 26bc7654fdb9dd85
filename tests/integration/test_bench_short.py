"""The bench runs and compares; how fast anything is, is not asserted here."""

from __future__ import annotations

import json
import math

import pytest

from scripts.bench import bars, control_plane
from scripts.bench.lookups import measure_lookups
from scripts.bench.report import as_json, as_table
from scripts.bench.rounds import Plan, measure
from scripts.bench.routes import open_routes

pytestmark = pytest.mark.integration

PLAN = Plan(rounds=2, unary_requests=8, streams=2, stream_tokens=8, latency_requests=8, concurrency=2)


async def test_a_few_requests_give_every_figure(tmp_path):
    async with open_routes(tmp_path) as routes:
        comparisons = await measure(routes, PLAN, lambda step: None)
    assert len(comparisons) == 5
    for one in comparisons:
        assert math.isfinite(one.ratio)
    processor_time = [one for one in comparisons if one.name.startswith("CPU")]
    assert all(one.relay > 0 and one.router > 0 for one in processor_time)
    assert len(json.loads(as_json(comparisons, PLAN))["figures"]) == 5
    assert "CPU a streamed token" in as_table(comparisons, PLAN)


async def test_a_small_control_plane_gives_every_figure(tmp_path):
    plan = control_plane.Plan(tenants=20, routers=1, changes=2)
    figures = await control_plane.measure(tmp_path, plan, lambda step: None)
    found = bars.rows(figures, measure_lookups(tmp_path / "lookups", [10, plan.tenants]), plan)
    assert all(
        math.isfinite(row.value) and row.value > 0
        for row in found
        if row.name != "router memory, the snapshot"
    )
    assert [row.name for row in found if row.bar is not None] == [
        "config service: start to serving",
        "1 routers at once: start to serving",
        "router memory, the snapshot",
        "change committed to in force everywhere, p99",
        "their growth",
    ]


def test_a_figure_over_its_bar_is_said_and_one_without_a_bar_is_not_judged():
    over, within, free = (
        bars.Row("a", 3.0, "s", 0, 2.0),
        bars.Row("b", 2.0, "s", 0, 2.0),
        bars.Row("c", 9.0, "s"),
    )
    assert [row.kept for row in (over, within, free)] == [False, True, True]
    lines = bars.table([over, within, free]).splitlines()
    assert [line.split()[-1] for line in lines] == ["most", "KEPT", "kept", "s"]
