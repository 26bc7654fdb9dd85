"""How long a large request waits beside a steady stream of small ones, under either discipline."""

from __future__ import annotations

import pytest

from services.common.errors import ResourceExhaustedError
from services.router.pool import fair_queue, fifo_queue
from services.router.pool.demand import Cost
from services.router.pool.fair_queue import FairQueue
from services.router.pool.fifo_queue import FifoQueue
from services.router.pool.queue_discipline import MAX_OVERTAKES
from tests.fakes.mutants import changed
from tests.unit.router.pool.small_pools import COST, acquire, demand, ready_pool, settle, waiting

both = pytest.mark.parametrize("queue", [FairQueue, FifoQueue])
of_whom = pytest.mark.parametrize("others", ["t", "another"])


def overtakes_allowed(monkeypatch, count: int) -> None:
    for module in (fair_queue, fifo_queue):
        monkeypatch.setattr(module, "MAX_OVERTAKES", count)


async def small_ones_served_before_a_large_one(
    queue, others: str, headroom: int = 0, count: int = 5, small: Cost = COST
) -> int:
    """A steady stream of small requests beside one that needs most of the KV cache."""
    pool = ready_pool(queue(), concurrent_requests=8, headroom_requests=headroom)
    running = [await acquire(pool, demand(small, tenant=others)) for _ in range(count)]
    large = await waiting(pool, cost=Cost(40, 40))
    served = 0
    while not large.done() and served < 200:
        newcomer = await waiting(pool, cost=small, tenant=others)
        running.pop(0).give_back()
        await settle()
        if newcomer.done():
            running.append(await newcomer)
            served += 1
        elif not running:
            break
        else:
            newcomer.cancel()
            await settle()
    for grant in running:
        grant.give_back()
    (await large).give_back()
    assert pool.in_flight == pool.queued == 0
    assert pool.scheduler._kept is None
    return served


@both
@of_whom
async def test_a_large_request_is_overtaken_a_bounded_number_of_times(queue, others):
    assert await small_ones_served_before_a_large_one(queue, others) <= MAX_OVERTAKES


@both
@of_whom
async def test_that_test_notices_a_pool_that_lets_everybody_overtake(monkeypatch, queue, others):
    overtakes_allowed(monkeypatch, 10_000)
    assert await small_ones_served_before_a_large_one(queue, others) == 200


async def test_a_large_request_of_a_tenant_that_is_alone_starves_beside_no_headroom():
    """Its tenant holds half of the KV cache, so the headroom is kept from it; the large request would not fit there."""
    assert await small_ones_served_before_a_large_one(FairQueue, "t", 2, 6, Cost(5, 5)) <= MAX_OVERTAKES


async def test_that_test_notices_starving_that_is_not_counted_at_a_tenants_share():
    careless = changed(fair_queue, "starves-at-its-share", "return None").FairQueue
    assert await small_ones_served_before_a_large_one(careless, "t", 2, 6, Cost(5, 5)) == 200


@both
async def test_an_endpoint_kept_for_one_who_leaves_is_everybodys_again(monkeypatch, queue):
    overtakes_allowed(monkeypatch, 1)
    pool = ready_pool(queue(), concurrent_requests=2)
    held = await acquire(pool, demand(Cost(10, 10)))
    large = await waiting(pool, cost=Cost(45, 45))
    overtakes = await acquire(pool, demand(Cost(10, 10)))
    overtakes.give_back()
    newcomer = await waiting(pool, cost=Cost(10, 10))
    assert not newcomer.done()
    large.cancel()
    await settle()
    (await newcomer).give_back()
    held.give_back()
    assert pool.in_flight == 0


async def test_an_endpoint_kept_for_one_that_is_refused_is_everybodys_again(monkeypatch):
    overtakes_allowed(monkeypatch, 1)
    pool = ready_pool(concurrent_requests=3, queued_requests=2)
    held = await acquire(pool, demand(Cost(10, 10), tenant="another"))
    large = await waiting(pool, cost=Cost(45, 45), priority=1)
    overtakes = await acquire(pool, demand(Cost(10, 10), tenant="another"))
    overtakes.give_back()
    other = await waiting(pool, tenant="another")
    assert not other.done()
    # One of each tenant may wait.
    next_one = await waiting(pool, priority=3)
    await settle()
    assert large.done()
    assert isinstance(large.exception(), ResourceExhaustedError)
    assert other.done()
    for grant in (held, await other):
        grant.give_back()
    (await next_one).give_back()
    assert pool.in_flight == 0
