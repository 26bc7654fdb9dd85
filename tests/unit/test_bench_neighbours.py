"""What the bench of neighbours draws, counts and shows, without a process."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser

import pytest

from scripts.bench.neighbours.charts import Axis, Line, cumulative, line_chart
from scripts.bench.neighbours.comparison import FCFS, VTC, as_json, as_table, rows
from scripts.bench.neighbours.figures import End, Outcome, RunFigures, nearest_rank, tenant_figures
from scripts.bench.neighbours.html_report import as_html
from scripts.bench.neighbours.workloads import WORKLOADS, Arrival, Attack, engine_seconds
from tests.fakes.scripted_triton.script import Batching

ENGINE = Batching()
SECONDS = 40.0


def drawn(name: str, attack: Attack, seed: int = 1) -> list[Arrival]:
    workload = next(one for one in WORKLOADS if one.name == name)
    return workload.arrivals(attack, SECONDS, ENGINE, seed)


def part_of_the_engine(arrivals: list[Arrival], tenant: str) -> float:
    own = [one for one in arrivals if one.tenant == tenant]
    return sum(engine_seconds(ENGINE, one.prompt_tokens, one.output_tokens) for one in own) / SECONDS


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_victims_ask_for_the_same_however_strong_the_attack(workload):
    def victims(attack: Attack) -> list[Arrival]:
        drawn = workload.arrivals(attack, SECONDS, ENGINE, 7)
        return [one for one in drawn if one.tenant != workload.attacker]

    assert victims(Attack.ABSENT) == victims(Attack.AT_SHARE) == victims(Attack.TENFOLD) != []
    absent = workload.arrivals(Attack.ABSENT, SECONDS, ENGINE, 7)
    assert not any(one.tenant == workload.attacker for one in absent)


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_requests_are_drawn_again_from_their_seed(workload):
    first = workload.arrivals(Attack.AT_SHARE, SECONDS, ENGINE, 1)
    assert first == workload.arrivals(Attack.AT_SHARE, SECONDS, ENGINE, 1)
    assert [one.at_seconds for one in first] == sorted(one.at_seconds for one in first)
    if workload.name not in ("overload", "on-off"):
        assert first != workload.arrivals(Attack.AT_SHARE, SECONDS, ENGINE, 2)


def test_an_attacker_at_its_share_asks_for_half_of_the_engine_and_the_victim_for_a_quarter():
    at_share = drawn("overload", Attack.AT_SHARE)
    assert part_of_the_engine(at_share, "attacker") == pytest.approx(0.5, rel=0.05)
    assert part_of_the_engine(at_share, "victim") == pytest.approx(0.25, rel=0.3)
    assert part_of_the_engine(drawn("overload", Attack.TENFOLD), "attacker") == pytest.approx(5.0, rel=0.05)


def test_adapters_come_in_turn():
    attacks = [one.adapter for one in drawn("adapter-thrash", Attack.TENFOLD) if one.tenant == "attacker"]
    assert attacks[:14] == [*range(12), 0, 1]


def test_a_quantile_is_one_of_the_values():
    assert nearest_rank([1.0, 2.0, 3.0, 4.0], 0.5) == 2.0
    assert nearest_rank([1.0, 2.0, 3.0, math.inf], 0.99) == math.inf
    assert math.isnan(nearest_rank([], 0.5))


OUTCOMES = [
    Outcome("victim", 0.5, 10, End.ANSWERED, "", [(0.75, 1), (1.5, 2)]),
    Outcome("victim", 1.0, 10, End.REFUSED, "QUEUE_FULL"),
    Outcome("victim", 1.9, 10, End.UNFINISHED, "", [(2.5, 4)]),
    Outcome("victim", 2.0, 10, End.ANSWERED, "", [(2.1, 100)]),
    Outcome("attacker", 0.0, 10, End.LEFT, "", [(0.5, 1)]),
]


def test_a_run_counts_what_was_sent_in_the_measured_time():
    found = tenant_figures("victim", OUTCOMES, 2.0)
    assert found.requests == 3
    assert found.ends == {"answered": 1, "refused": 1, "unfinished": 1}
    assert found.reasons == {"QUEUE_FULL": 1}
    assert found.first_token_seconds == (0.25, pytest.approx(0.6), math.inf)
    assert found.service == (12.0, 16.0)
    assert found.output_tokens == 3
    assert found.goodput == 1 / 3


def run_of(discipline: str, attack: Attack) -> RunFigures:
    tenants = tuple(tenant_figures(tenant, OUTCOMES, 2.0) for tenant in ("victim", "attacker"))
    return RunFigures("poisson", str(attack), discipline, 1, 2.0, tenants, 3.0)


RUNS = [run_of(discipline, attack) for attack in Attack for discipline in (FCFS, VTC)]


def test_rows_pool_the_rounds():
    first, *_ = rows([*RUNS, *RUNS])
    assert (first.tenant, first.requests, first.refused, first.service) == ("victim", 6, 2, 32.0)
    assert first.p50_seconds == pytest.approx(0.6)
    assert first.p99_seconds == math.inf
    assert first.tokens_a_second == 2.0


def test_the_table_and_the_json_have_the_same_rows():
    table, found = as_table(RUNS, {"cores": "2"}), json.loads(as_json(RUNS, {"cores": "2"}))
    assert len(found["rows"]) == 12
    assert len(re.findall(r"^poisson ", table, re.MULTILINE)) == 12
    assert found["rows"][0]["p99_seconds"] is None
    assert "seeds 1" in table
    assert found["machine"] == {"cores": "2"}


class Page(HTMLParser):
    """Collects what a browser would load or run, and the tables' cells."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.cells: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        if tag != "meta":
            self.open.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "td":
            self.cells.append(data)


def test_the_page_is_well_formed_and_loads_nothing():
    text = as_html(RUNS, {"note": "<script>alert(1)</script>"})
    page = Page(text)
    assert page.open == []
    names = {name for name, _ in page.attributes}
    assert not names & {"src", "href", "style", "onload", "onclick"}
    assert "<script" not in text
    assert "url(" not in text
    policy = next(value for name, value in page.attributes if value.startswith("default-src"))
    assert policy.startswith("default-src 'none'; style-src 'sha256-")


def test_the_pages_tables_have_the_rows_of_the_table():
    cells = Page(as_html(RUNS, {})).cells
    for row in rows(RUNS):
        assert f"{row.service:,.0f}" in cells
    assert cells.count("none") == 3 + 3 * 2  # p99 in short, and of the victim in each row


def test_a_distribution_ends_below_the_part_that_got_no_token():
    assert cumulative((1.0, 2.0, math.inf, math.inf)) == ((1.0, 0.0), (1.0, 25.0), (2.0, 25.0), (2.0, 50.0))
    assert cumulative((math.inf,)) == ()


def test_a_chart_has_its_points_between_its_axes():
    line = Line("a & b", ((0.0, 0.0), (10.0, 5.0), (99.0, 50.0)), "a")
    chart = line_chart("t", [line], Axis("x", 0.0, 10.0), Axis("y", 0.0, 5.0))
    (points,) = re.findall(r'<polyline[^>]* points="([^"]*)"', chart)
    assert [tuple(map(float, point.split(","))) for point in points.split()] == [
        (58.0, 220.0), (446.0, 12.0), (446.0, 12.0),
    ]  # fmt: skip
    assert "a &amp; b" in chart


@pytest.mark.parametrize(
    ("axis", "ticks"),
    [
        (Axis("", 0.0, 10.0), [0.0, 2.5, 5.0, 7.5, 10.0]),
        (Axis("", 10.0, 1000.0, logarithmic=True), [10.0, 100.0, 1000.0]),
    ],
)
def test_ticks_are_round(axis, ticks):
    assert axis.ticks() == ticks
