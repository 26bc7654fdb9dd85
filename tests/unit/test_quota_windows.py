"""A scenario over quotas is repeated when a month ended meanwhile, and only then."""

from __future__ import annotations

import pytest

from tests.fakes.quota_windows import within_one_month

LAST_SECOND = 1_796_083_199  # 2026-11-30 23:59:59 UTC


@pytest.fixture
def clock(monkeypatch):
    now = [LAST_SECOND]
    monkeypatch.setattr("time.time", lambda: now[0])
    return now


@pytest.mark.parametrize(("seconds", "runs"), [(0, 1), (1, 2)])
async def test_a_failure_counts_unless_a_month_ended_meanwhile(clock, seconds, runs):
    begun = []

    async def scenario():
        begun.append(clock[0])
        clock[0] += seconds
        raise AssertionError("too much was spent")

    with pytest.raises(AssertionError, match="too much was spent"):
        await within_one_month(scenario)
    assert len(begun) == runs


async def test_what_did_not_raise_is_a_failure_as_well(clock):
    begun = []

    async def scenario():
        begun.append(clock[0])
        clock[0] += 1
        if len(begun) == 1:
            pytest.fail("DID NOT RAISE")
        return len(begun)

    assert await within_one_month(scenario) == 2
