from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from services.common.errors import Reason, ResourceExhaustedError, UnavailableError
from services.router.pool import pool as pool_module
from services.router.pool.demand import Cost
from services.router.pool.pool import Pool
from tests.fakes.mutants import without
from tests.unit.router.pool.small_pools import CONFIG, acquire, demand, ready_pool, settle, waiting


async def test_order_of_arrival():
    pool = ready_pool(concurrent_requests=1)
    first = await acquire(pool, demand())
    second, third = await waiting(pool), await waiting(pool)
    first.give_back()
    await settle()
    assert second.done()
    assert not third.done()
    (await second).give_back()
    (await third).give_back()
    assert pool.in_flight == pool.queued == 0


async def test_the_queue_is_bounded():
    pool = ready_pool(concurrent_requests=1, queued_requests=1)
    held = await acquire(pool, demand())
    queued = await waiting(pool)
    with pytest.raises(ResourceExhaustedError) as refused:
        await acquire(pool, demand())
    assert refused.value.reason is Reason.QUEUE_FULL
    assert refused.value.retry_after_seconds
    held.give_back()
    (await queued).give_back()


async def test_a_waiter_that_leaves_gives_its_turn_on():
    pool = ready_pool(concurrent_requests=1)
    held = await acquire(pool, demand())
    leaves, stays = await waiting(pool), await waiting(pool)
    leaves.cancel()
    await settle()
    held.give_back()
    (await stays).give_back()
    assert pool.in_flight == pool.queued == 0


async def held_after_one_leaves_as_it_is_served() -> int:
    pool = ready_pool(concurrent_requests=1)
    held = await acquire(pool, demand())
    leaves = await waiting(pool)
    leaves.cancel()
    held.give_back()
    with pytest.raises(asyncio.CancelledError):
        await leaves
    return pool.in_flight


async def test_a_waiter_that_left_as_it_is_served_hands_its_place_on():
    assert await held_after_one_leaves_as_it_is_served() == 0


async def test_that_test_notices_a_place_that_is_not_handed_on(monkeypatch):
    kept = without(pool_module, "place-handed-on").Pool
    monkeypatch.setattr(Pool, "_serve", kept._serve)
    assert await held_after_one_leaves_as_it_is_served() == 1


async def test_a_place_is_given_back_once():
    pool = ready_pool()
    grant = await acquire(pool, demand())
    grant.give_back()
    with pytest.raises(AssertionError):
        grant.give_back()


async def test_kv_capacity_holds_back_what_does_not_fit_and_lets_smaller_ones_pass():
    pool = ready_pool(concurrent_requests=8)
    first = await acquire(pool, demand(Cost(40, 40)))
    large, small = await waiting(pool, cost=Cost(20, 20)), await waiting(pool, cost=Cost(5, 5))
    assert small.done()
    assert not large.done()
    first.give_back()
    for grant in (await large, await small):
        grant.give_back()


async def test_twenty_at_once_send_the_weights_once():
    pool = ready_pool(concurrent_requests=32, queued_requests=64, kv_tokens=10_000)
    requests = [await waiting(pool, lora_id=7) for _ in range(20)]
    assert [request.done() for request in requests].count(True) == 1
    sender = await requests[0]
    assert sender.send_weights
    sender.adapter_accepted()
    await settle()
    grants = [await request for request in requests]
    assert [grant.send_weights for grant in grants].count(True) == 1
    for grant in grants:
        grant.give_back()


async def test_a_sender_that_fails_is_followed_by_the_next():
    pool = ready_pool()
    sender, follower = await waiting(pool, lora_id=7), await waiting(pool, lora_id=7)
    (await sender).give_back()
    grant = await follower
    assert grant.send_weights
    grant.give_back()


async def test_many_misses_send_the_weights_again_once():
    pool = ready_pool(concurrent_requests=32, kv_tokens=10_000)
    first = await acquire(pool, demand(lora_id=7))
    first.adapter_accepted()
    grants = [await acquire(pool, demand(lora_id=7)) for _ in range(5)]
    missed = [asyncio.create_task(grant.adapter_missed()) for grant in grants]
    await settle()
    assert [grant.send_weights for grant in grants] == [True, False, False, False, False]
    assert [task.done() for task in missed] == [True, False, False, False, False]
    grants[0].adapter_accepted()
    await asyncio.gather(*missed)
    assert [grant.send_weights for grant in grants].count(True) == 1
    for grant in [first, *grants]:
        grant.give_back()


async def test_a_reload_that_fails_passes_to_the_next_in_line():
    pool = ready_pool(concurrent_requests=32, kv_tokens=10_000)
    first = await acquire(pool, demand(lora_id=7))
    first.adapter_accepted()
    sender, follower = await acquire(pool, demand(lora_id=7)), await acquire(pool, demand(lora_id=7))
    await sender.adapter_missed()
    waits = asyncio.create_task(follower.adapter_missed())
    await settle()
    sender.give_back()
    await waits
    assert follower.send_weights
    for grant in (first, follower):
        grant.give_back()


async def test_the_least_busy_endpoint_is_next_and_of_equals_the_one_with_the_adapter():
    pool = ready_pool(targets=("a", "b"))
    first = await acquire(pool, demand(lora_id=7))
    first.adapter_accepted()
    second = await acquire(pool, demand())
    assert {first.target, second.target} == {"a", "b"}
    first.give_back()
    second.give_back()
    again = await acquire(pool, demand(lora_id=7))
    assert again.target == first.target
    assert not again.send_weights
    again.give_back()


async def test_none_ready_refuses_those_who_come_and_those_who_wait():
    pool = ready_pool(concurrent_requests=1)
    held = await acquire(pool, demand())
    queued = await waiting(pool)
    pool.probed("a", ready=False)
    for refused in (queued, acquire(pool, demand())):
        with pytest.raises(UnavailableError) as error:
            await refused
        assert error.value.reason is Reason.NO_READY_ENDPOINT
        assert error.value.retry_after_seconds
    held.give_back()


async def test_an_endpoint_that_came_back_holds_no_adapters():
    pool = ready_pool()
    before = await acquire(pool, demand(lora_id=7))
    before.adapter_accepted()
    pool.probed("a", ready=False)
    pool.probed("a", ready=True)
    after = await acquire(pool, demand(lora_id=7))
    assert after.send_weights
    before.give_back()
    after.give_back()
    assert pool.in_flight == 0


async def test_one_broken_stream_refuses_nobody_and_forgets_no_adapter():
    pool = ready_pool()
    before = await acquire(pool, demand(lora_id=7))
    before.adapter_accepted()
    before.endpoint_failed()
    before.give_back()
    waits = await waiting(pool, lora_id=7)
    assert not waits.done()
    pool.probed("a", ready=True)
    after = await waits
    assert not after.send_weights
    after.give_back()
    assert pool.in_flight == 0


async def test_an_old_failure_does_not_fail_a_new_life():
    pool = ready_pool()
    old = await acquire(pool, demand())
    pool.probed("a", ready=False)
    pool.probed("a", ready=True)
    old.endpoint_failed()
    (await acquire(pool, demand())).give_back()
    old.give_back()


async def test_config_adds_and_drops_endpoints_around_running_requests():
    pool = ready_pool()
    running = await acquire(pool, demand())
    pool.configure(replace(CONFIG, targets=("b",)))
    pool.probed("b", ready=True)
    moved = await acquire(pool, demand())
    assert moved.target == "b"
    assert pool.targets == ["b"]
    running.give_back()
    moved.give_back()
    assert [endpoint.target for endpoint in pool._endpoints] == ["b"]


async def test_a_retired_pool_refuses_its_queue():
    pool = ready_pool(concurrent_requests=1)
    held = await acquire(pool, demand())
    queued = await waiting(pool)
    pool.retire()
    with pytest.raises(UnavailableError):
        await queued
    held.give_back()
