"""The fairness bench's figures add up, and its page holds them. Simulated time gives the same ones everywhere."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser

import pytest

from scripts.bench.fairness.figures import run
from scripts.bench.fairness.report import cells, page
from scripts.bench.fairness.workloads import VICTIM, WORKLOADS, Level
from scripts.bench_fairness import as_json, as_table, measured

SECONDS = 20.0


@pytest.fixture(scope="module")
def runs():
    return measured(list(WORKLOADS), seeds=1, seconds=SECONDS, headroom=0)


def test_every_workload_ran_at_every_level_under_both_queues(runs):
    assert len({(one.workload, one.level, one.queue) for one in runs}) == len(WORKLOADS) * 3 * 2 == len(runs)


def test_every_request_of_the_victim_is_counted_once(runs):
    for one in runs:
        (workload,) = [known for known in WORKLOADS if known.name == one.workload]
        asked = [arrival for arrival in workload.arrivals(one.level, 1, SECONDS) if arrival.tenant == VICTIM]
        assert one.requests == len(asked)
        assert one.finished + one.refused <= one.requests
        assert list(one.first_token_seconds) == sorted(one.first_token_seconds)


def test_the_victim_asks_the_same_whatever_the_other_does(runs):
    for workload in WORKLOADS:
        assert len({one.requests for one in runs if one.workload == workload.name}) == 1


def test_a_seed_gives_the_same_figures_again(runs):
    again = run(WORKLOADS[0], Level.TEN_TIMES, "fair", seeds=[1], seconds=SECONDS)
    assert again in runs


def test_service_over_time_only_grows(runs):
    for one in runs:
        for series in one.service.values():
            assert list(series) == sorted(series)


def test_a_flood_shows_the_difference(runs):
    flood = {one.queue: one for one in runs if (one.workload, one.level) == ("overload", Level.TEN_TIMES)}
    assert flood["fair"].refused == 0
    assert flood["order of arrival"].first_token(0.99) > 5 * flood["fair"].first_token(0.99)


def test_table_and_json_hold_every_run(runs):
    lines = as_table(runs).splitlines()
    assert len(lines) == len(runs) + 1
    records = json.loads(as_json(runs))
    for one, record in zip(runs, records, strict=True):
        p99 = record["victim_first_token_p99_seconds"]
        assert (p99 is None) == math.isinf(one.first_token(0.99))
        assert record["victim_requests"] == one.requests


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in {"meta", "path", "polyline"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_loads_nothing(runs):
    text = page(runs, WORKLOADS, "<about>")
    parsed = _Page()
    parsed.feed(text)
    assert parsed.open == []
    assert not {"script", "link", "img", "iframe"} & set(parsed.tags)
    assert "default-src 'none'" in text
    assert not re.search(r"https?://|url\(|@import", text)
    assert "&lt;about&gt;" in text
    assert parsed.tags.count("svg") == 3 * len(WORKLOADS)
    for one in runs:
        assert all(cell in text for cell in cells(one))
