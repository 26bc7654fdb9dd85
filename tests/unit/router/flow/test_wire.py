"""What one side says is what the other side hears."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import QuotaViolation, Reason, ResourceExhaustedError, UnavailableError
from services.router.flow import events
from services.router.flow.wire import (
    controller_event,
    of_controller_event,
    of_report_parts,
    of_router_event,
    report_parts,
    router_event,
)
from services.router.limits.limited import Limited, UsageLimits
from services.router.limits.tenant_limiter import Usage
from services.router.pool.demand import Cost, Demand
from services.router.pool.pool_kind import PoolKind

NOW = 1000.0
numbers = st.integers(1, 2**62)
texts = st.text(st.characters(codec="utf-8"), max_size=20)
limits = st.builds(
    UsageLimits,
    requests_per_second=st.none() | st.floats(0, 1e6),
    request_burst=st.integers(0, 2**31),
    concurrent_requests=st.none() | st.integers(0, 2**31),
    tokens_per_minute=st.none() | st.integers(0, 2**40),
    shadow=st.frozensets(texts, max_size=3),
)
enters = st.builds(
    events.Enter,
    numbers,
    st.lists(st.builds(Limited, texts, texts, limits), max_size=2).map(tuple),
    st.booleans(),
    st.booleans(),
)
asks = st.builds(
    events.Ask,
    numbers,
    st.builds(PoolKind, texts, texts, texts, texts, st.none() | texts),
    st.builds(
        Demand,
        texts,
        st.builds(Cost, st.integers(0, 2**31), st.integers(0, 2**31)),
        st.none() | st.integers(0, 2**62),
        st.integers(1, 1000),
        st.integers(1, 3),
        st.integers(0, 2000).map(float),
    ),
    st.booleans(),
)
said = st.one_of(
    enters,
    asks,
    st.builds(events.Used, numbers, numbers),
    st.builds(events.Ended, numbers, numbers, st.booleans(), st.booleans()),
    *(
        st.builds(kind, numbers)
        for kind in (
            events.Join,
            events.Left,
            events.AdapterAccepted,
            events.AdapterMissed,
            events.EndpointFailed,
            events.WitnessAck,
        )
    ),
)
floats = st.floats(0, 1e9)
usages = st.builds(Usage, texts, floats, numbers, st.lists(st.tuples(floats, numbers), max_size=3))
levels = st.lists(floats, max_size=2).map(tuple)
answers = st.one_of(
    st.builds(events.Entered, numbers),
    st.builds(events.Reserved, numbers, levels),
    st.builds(events.Granted, numbers, texts, st.booleans(), floats, floats, levels),
    st.builds(events.Reload, numbers, st.booleans()),
    st.builds(events.Witness, numbers, st.lists(usages, max_size=3)),
)
reports = st.builds(
    events.Report,
    texts,
    texts,
    st.lists(st.builds(events.Held, enters, asks, st.booleans(), texts, numbers, floats), max_size=3),
    st.lists(usages, max_size=3),
    st.lists(st.tuples(texts, texts, floats), max_size=3),
    st.dictionaries(texts, st.lists(usages, min_size=1, max_size=2), max_size=2),
)


@given(said)
def test_what_a_router_says_is_heard(event):
    assert of_router_event(router_event(event, NOW), NOW) == event


@given(answers)
def test_what_the_controller_says_is_heard(event):
    assert of_controller_event(controller_event(event)) == event


@given(reports)
def test_a_report_arrives_whole(report):
    assert of_report_parts(report_parts(report, 3, NOW), NOW) == report


def test_a_large_report_comes_in_parts():
    usage = [Usage(f"uid-{number}", 1.0, 0, []) for number in range(5000)]
    report = events.Report("router-1", "i", usage=usage)
    parts = list(report_parts(report, 3, NOW))
    assert len(parts) == 6
    assert [part.last for part in parts] == [False] * 5 + [True]
    assert replace(of_report_parts(parts, NOW)).usage == usage


@pytest.mark.parametrize(
    "error",
    [
        ResourceExhaustedError(
            "limit reached",
            reason=Reason.RATE_LIMITED,
            violations=[QuotaViolation("tenants/a", "at most 1")],
            metadata={"limit": "limits.requests_per_second"},
            retry_after_seconds=1.5,
        ),
        UnavailableError("none ready", reason=Reason.NO_READY_ENDPOINT, retry_after_seconds=1.0),
    ],
)
def test_a_refusal_reaches_the_caller_as_it_was(error):
    heard = of_controller_event(controller_event(events.Refused(7, error)))
    assert isinstance(heard, events.Refused)
    assert type(heard.error) is type(error)
    for field in ("message", "reason", "metadata", "retry_after_seconds"):
        assert getattr(heard.error, field) == getattr(error, field)
    assert getattr(heard.error, "violations", None) == getattr(error, "violations", None)


def test_a_deadline_travels_as_the_time_that_is_left():
    ask = events.Ask(
        1, PoolKind("p", "m", "s", "d", None), Demand("t", Cost(1, 1), None, deadline=NOW + 5), True
    )
    heard = of_router_event(router_event(ask, NOW), 50.0)
    assert isinstance(heard, events.Ask)
    assert heard.demand.deadline == 55.0
