"""The bench of neighbours runs, and its numbers add up; what they are is not asserted here."""

from __future__ import annotations

import pytest

from scripts.bench.neighbours.comparison import FCFS, VTC, rows
from scripts.bench.neighbours.figures import End
from scripts.bench.neighbours.html_report import as_html
from scripts.bench.neighbours.suite import Plan, cells_of, run
from scripts.bench.neighbours.workloads import Attack

pytestmark = pytest.mark.integration

PLAN = Plan(
    workloads=("cancel-storm", "adapter-thrash"),
    attacks=(Attack.AT_SHARE,),
    seconds=1.5,
    patience_seconds=2.0,
    speed=3.0,
)


async def test_every_request_is_counted_once_under_both_disciplines(tmp_path):
    said: list[str] = []
    runs = await run(tmp_path, PLAN, said.append)
    assert len(runs) == len(said) == 4
    for cell in cells_of(PLAN):
        whole = PLAN.seconds + PLAN.patience_seconds
        arrivals = cell.workload.arrivals(cell.attack, whole, PLAN.batching, cell.seed)
        pair = {one.discipline: one for one in runs if one.workload == cell.workload.name}
        assert set(pair) == {FCFS, VTC}
        for one in pair.values():
            for tenant in one.tenants:
                sent = [
                    arrival
                    for arrival in arrivals
                    if arrival.tenant == tenant.tenant and arrival.at_seconds < PLAN.seconds
                ]
                assert tenant.requests == len(sent) == sum(tenant.ends.values()) > 0
                assert len(tenant.first_token_seconds) == tenant.requests
                assert tenant.ends.get(End.FAILED, 0) == 0, tenant.reasons
                assert list(tenant.service) == sorted(tenant.service)
            assert one.of("victim").ends.get(End.ANSWERED, 0) > 0
            assert one.of("victim").service[-1] >= 2 * one.of("victim").output_tokens
    storm = next(one for one in runs if one.workload == "cancel-storm")
    assert storm.of("attacker").ends.get(End.LEFT, 0) > 0
    page = as_html(runs, {})
    for row in rows(runs):
        assert f"<td>{row.requests:,}</td>" in page
