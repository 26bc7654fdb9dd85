"""Who is refused when too many wait, when, and with which words."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from services.common.errors import Reason, ResourceExhaustedError
from services.router.pool import fair_queue, scheduler
from services.router.pool.demand import Cost
from services.router.pool.endpoints import Servers
from services.router.pool.fair_queue import FairQueue
from services.router.pool.pace import Pace
from tests.fakes.manual_clock import ManualClock
from tests.fakes.mutants import changed, without
from tests.unit.router.pool.small_pools import CONFIG, acquire, demand, ready_pool, settle, waiting


async def refused(request: asyncio.Task) -> ResourceExhaustedError:
    with pytest.raises(ResourceExhaustedError) as error:
        await request
    assert error.value.reason is Reason.QUEUE_FULL
    assert error.value.retry_after_seconds is not None
    assert error.value.retry_after_seconds > 0
    return error.value


async def give_all_back(pool, held, requests) -> None:
    """Let everything run to its end, so that nothing is left."""

    async def run(request):
        (await request).give_back()

    held.give_back()
    served = [run(request) for request in requests if not request.done() or not request.exception()]
    await asyncio.wait_for(asyncio.gather(*served), 5)
    assert pool.queued == pool.in_flight == 0


async def test_one_tenant_may_queue_half_of_what_may_wait():
    pool = ready_pool(concurrent_requests=1, queued_requests=8)
    held = await acquire(pool, demand())
    queued = [await waiting(pool) for _ in range(4)]
    await refused(await waiting(pool))
    other = await waiting(pool, tenant="another")
    assert pool.queued == 5
    await give_all_back(pool, held, [*queued, other])


async def queued_by_one(queue) -> int:
    pool = ready_pool(queue, concurrent_requests=1, queued_requests=8)
    held = await acquire(pool, demand())
    queued = [await waiting(pool) for _ in range(20)]
    count = pool.queued
    await give_all_back(pool, held, queued)
    return count


async def test_that_test_notices_a_tenant_without_a_bound(monkeypatch):
    assert await queued_by_one(FairQueue()) == 4
    careless = without(fair_queue, "bound-a-tenant").FairQueue
    monkeypatch.setattr(careless, "refuses", lambda queue, demand: False)
    assert await queued_by_one(careless()) == 8


async def test_when_all_places_in_the_queue_are_taken_who_has_most_loses_its_newest_of_low_priority():
    pool = ready_pool(concurrent_requests=1, queued_requests=6)
    held = await acquire(pool, demand())
    heavy = [await waiting(pool, tenant="heavy", priority=priority) for priority in (2, 1, 2)]
    others = [await waiting(pool, tenant=f"light-{number}") for number in range(3)]
    newcomer = await waiting(pool, tenant="newcomer")
    await refused(heavy.pop(1))
    another = await waiting(pool, tenant="another-newcomer")
    await refused(heavy.pop(1))
    # Everybody has one by now: the newest of equals is the one who is refused.
    await refused(await waiting(pool, tenant="one-too-many"))
    assert pool.queued == 6
    await give_all_back(pool, held, [*heavy, *others, newcomer, another])


async def test_who_has_most_is_counted_by_weight():
    pool = ready_pool(concurrent_requests=1, queued_requests=5)
    held = await acquire(pool, demand())
    large = [await waiting(pool, tenant="large", weight=300) for _ in range(3)]
    small = [await waiting(pool, tenant="small", weight=50) for _ in range(2)]
    newcomer = await waiting(pool, tenant="newcomer")
    await refused(small.pop())
    await give_all_back(pool, held, [*large, *small, newcomer])


async def test_a_request_of_higher_priority_takes_the_place_of_its_own_tenants_lower_one():
    pool = ready_pool(concurrent_requests=1, queued_requests=4)
    held = await acquire(pool, demand())
    low, normal = await waiting(pool, priority=1), await waiting(pool)
    high = await waiting(pool, priority=3)
    await refused(low)
    await refused(await waiting(pool, priority=1))
    await give_all_back(pool, held, [normal, high])


async def test_a_request_that_can_run_is_not_refused_for_others_that_wait():
    pool = ready_pool(concurrent_requests=3, queued_requests=2)
    held = await acquire(pool, demand(Cost(40, 40)))
    too_large = [await waiting(pool, cost=Cost(30, 30), tenant=tenant) for tenant in "ab"]
    small = await waiting(pool, cost=Cost(5, 5), tenant="c")
    await give_all_back(pool, held, [*too_large, small])


async def test_what_comes_first_is_not_begun_for_a_request_that_is_refused_at_once():
    pool = ready_pool(concurrent_requests=1, queued_requests=2)
    held = await acquire(pool, demand())
    queued = await waiting(pool)
    begun = []

    async def first():
        begun.append(pool.in_flight)

    with pytest.raises(ResourceExhaustedError):
        await acquire(pool, demand(), first)
    assert begun == []
    queued.cancel()
    await settle()
    held.give_back()
    (await acquire(pool, demand(), first)).give_back()
    # No place is held meanwhile.
    assert begun == [0]


class PacedPool:
    """A pool of one place that gives a request each second 30 of at most 30 service, while others wait."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.pool = ready_pool(clock=self.clock, concurrent_requests=1, queued_requests=100)
        self.queued: list[asyncio.Task] = []

    async def run(self, seconds: int) -> None:
        self.held = await acquire(self.pool, demand())
        self.queued = [await waiting(self.pool) for _ in range(seconds + 4)]
        for _ in range(seconds):
            self.held.charge(10)
            self.clock.advance(1.0)
            self.held.give_back()
            await settle()
            self.held = await self.queued.pop(0)

    async def ask(self, seconds: float, **fields) -> asyncio.Task:
        deadline = self.clock.monotonic_seconds() + seconds
        return await waiting(self.pool, deadline=deadline, **fields)

    async def end(self, *others) -> None:
        await give_all_back(self.pool, self.held, [*self.queued, *others])


async def test_a_request_that_cannot_make_its_deadline_is_refused_at_once_with_the_time_it_lacks():
    paced = PacedPool()
    await paced.run(20)
    assert len(paced.queued) == 4
    error = await refused(await paced.ask(2.5))
    # Four are ahead of it, a second each.
    assert error.retry_after_seconds == pytest.approx(1.5, abs=0.2)
    patient = await paced.ask(4.5)
    assert not patient.done()
    # Nothing of another tenant is ahead of its first request.
    other = await paced.ask(0.5, tenant="another")
    assert not other.done()
    # What is below its priority is not ahead of it.
    high = await paced.ask(1.0, priority=3)
    assert not high.done()
    await paced.end(patient, other, high)


async def test_nobody_is_refused_for_a_pace_that_is_not_known():
    paced = PacedPool()
    await paced.run(1)
    hurried = await paced.ask(0.001)
    assert not hurried.done()
    await paced.end(hurried)


def test_idle_time_is_no_pace():
    pace = Pace()
    for second in range(30):
        pace.waiting(second, waits=True)
        pace.serve(100)
        pace.waiting(second + 0.5, waits=False)
        pace.settled(second + 0.5, 50, 100)
    # 200 a second while requests waited; half of what requests may use they use.
    assert pace.seconds(400, 1.0) == pytest.approx(1.0)
    assert pace.seconds(400, 0.25) == pytest.approx(4.0)


def wait_beside_failing_prompts(scheduler_class: type[scheduler.Scheduler]) -> float | None:
    """The wait estimate when a server fails before the first token of prompts from before anything waited."""
    config = replace(CONFIG, concurrent_requests=1, queued_requests=100, kv_tokens=10_000)
    failing = scheduler_class(config, FairQueue(), Servers())
    failing.probed("a", ready=True)
    now = 0.0
    for _ in range(20):
        failing.join(demand(Cost(1000, 10)), now)
        ((large, place),) = failing.serve(now)
        failing.join(demand(Cost(10, 10)), now)
        failing.charge(large, -1000)
        now += 1.0
        failing.give_back(large, place, 0.0, now)
        ((small, place),) = failing.serve(now)
        failing.charge(small, 20)
        failing.give_back(small, place, 30.0, now)
    return failing.pace.seconds(100, 1.0)


def test_a_refunded_prompt_does_not_make_the_pace_negative():
    estimate = wait_beside_failing_prompts(scheduler.Scheduler)
    assert estimate is None or estimate > 0


def test_that_test_notices_a_refund_that_is_taken_off_the_pace():
    careless = changed(scheduler, "refund-is-no-pace", "self.pace.serve(service)").Scheduler
    estimate = wait_beside_failing_prompts(careless)
    assert estimate is not None
    assert estimate < 0


def test_the_pace_follows_what_happens_now():
    pace = Pace()
    pace.waiting(0.0, waits=True)
    for second in range(1, 61):
        pace.serve(100 if second <= 30 else 10)
        pace.settled(second, 1, 1)
    assert pace.seconds(100, 1.0) == pytest.approx(100 / (10 + 90 / 8), rel=0.1)


def test_too_little_is_nothing_known():
    pace = Pace()
    pace.waiting(0.0, waits=True)
    for tenth in range(1, 10):
        pace.serve(10)
        pace.settled(tenth / 10, 1, 1)
    assert pace.seconds(1, 1.0) is None
