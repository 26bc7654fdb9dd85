"""What tenants could do to one another through the queue, each with the queue that lets them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from services.router.pool import directory as directory_module
from services.router.pool import endpoint_set, fair_queue, scheduler, tenant_account
from services.router.pool import pool as pool_module
from services.router.pool.demand import OUTPUT_TOKEN_SERVICE, Cost
from services.router.pool.endpoints import Servers
from services.router.pool.fair_queue import FairQueue
from services.router.pool.queue_discipline import MAX_OVERTAKES, QueueLimits, Ticket
from services.router.pool.scheduler import Scheduler
from tests.fakes.manual_clock import ManualClock
from tests.fakes.mutants import changed, without
from tests.unit.router.pool.small_pools import CONFIG, COST, acquire, demand, ready_pool, settle, waiting

COLD_TENANTS = 100


def scheduler_of(queue: FairQueue, **changes) -> Scheduler:
    made = Scheduler(replace(CONFIG, **changes), queue, Servers())
    for target in made.endpoints.targets:
        made.probed(target, ready=True)
    return made


def warm_served_behind_cold(queue: FairQueue) -> int:
    """Free places that requests get whose adapter is in use, behind tenants whose adapters find no slot."""
    made = scheduler_of(queue, adapters=1, concurrent_requests=8, kv_tokens=10_000, queued_requests=512)
    made.join(demand(lora_id=1, tenant="warm"), 0.0)
    (ticket, place), *_ = made.serve(0.0)
    place.adapter_accepted()
    for number in range(COLD_TENANTS):
        made.join(demand(lora_id=100 + number, tenant=f"cold-{number}"), 0.0)
    made.charge(ticket, 10_000.0)
    for _ in range(3):
        made.join(demand(lora_id=1, tenant="warm"), 0.0)
    return len(list(made.serve(0.0)))


def test_tenants_whose_adapters_find_no_slot_hide_none_whose_adapter_is_there():
    assert warm_served_behind_cold(FairQueue()) == 3


def test_that_test_notices_few_tries():
    blind = changed(fair_queue, "cold-hide-no-warm", "warm = None")
    assert warm_served_behind_cold(blind.FairQueue()) == 0


def served_of_two_warm_tenants(queue: FairQueue) -> tuple[int, int]:
    """What a tenant with six adapters in use gets beside one with one, behind tenants that find no slot."""
    made = scheduler_of(queue, adapters=7, concurrent_requests=16, kv_tokens=10_000, queued_requests=512)
    adapters = {**dict.fromkeys(range(6), "many"), 6: "one"}
    running = []
    # One of each runs on, so that no slot becomes free.
    for lora_id, tenant in adapters.items():
        made.join(demand(lora_id=lora_id, tenant=tenant), 0.0)
        ((_, place),) = made.serve(0.0)
        place.adapter_accepted()
    for number in range(10):
        made.join(demand(lora_id=100 + number, tenant=f"cold-{number}"), 0.0)
    served = {"many": 0, "one": 0}
    for lora_id, tenant in adapters.items():
        for _ in range(4):
            made.join(demand(lora_id=lora_id, tenant=tenant), 0.0)
    for _ in range(MAX_OVERTAKES - 1):
        for ticket, place in made.serve(0.0):
            running.append((ticket, place))
            if sum(served.values()) < MAX_OVERTAKES - 1:
                served[ticket.demand.tenant_uid] += 1
            made.join(demand(lora_id=ticket.demand.lora_id, tenant=ticket.demand.tenant_uid), 0.0)
        made.give_back(*running.pop(0), 0.0, 0.0)
    return served["many"], served["one"]


def test_more_adapters_get_no_more_service():
    many, one = served_of_two_warm_tenants(FairQueue())
    assert abs(many - one) <= 6


def test_that_test_notices_warm_tenants_out_of_order():
    disordered = changed(fair_queue, "warm-in-order", "return max(able)[2:] if able else None")
    many, one = served_of_two_warm_tenants(disordered.FairQueue())
    assert abs(many - one) > 20


def small_behind_large_of_one_adapter(queue: FairQueue) -> int:
    """Requests served whose adapter is in use, behind one for it that does not fit yet."""
    made = scheduler_of(queue, adapters=1, concurrent_requests=8, kv_tokens=100, queued_requests=512)
    made.join(demand(lora_id=1, tenant="warm"), 0.0)
    ((_, place),) = made.serve(0.0)
    place.adapter_accepted()
    for number in range(10):
        made.join(demand(lora_id=100 + number, tenant=f"cold-{number}"), 0.0)
    for number in range(10):
        made.join(demand(Cost(60, 40), lora_id=100 + number, tenant=f"cold-{number}"), 0.0)
    made.join(demand(Cost(60, 30), lora_id=1, tenant="warm"), 0.0)
    made.join(demand(lora_id=1, tenant="warm"), 0.0)
    return len(list(made.serve(0.0)))


def test_a_large_request_hides_no_small_one_of_its_adapter():
    assert small_behind_large_of_one_adapter(FairQueue()) == 1


def served_at_a_busy_holder() -> int:
    """Requests served whose adapter is in use at the busier of two servers; others' adapters have all slots."""
    made = scheduler_of(
        FairQueue(), adapters=1, concurrent_requests=8, kv_tokens=1000, targets=("a", "b"), queued_requests=64
    )
    for tenant, lora_id in (("victim", 1), ("other", 2)):
        made.join(demand(lora_id=lora_id, tenant=tenant), 0.0)
        ((_, place),) = made.serve(0.0)
        place.adapter_accepted()
    for _ in range(3):
        made.join(demand(lora_id=1, tenant="victim"), 0.0)
    return len(list(made.serve(0.0)))


def test_a_server_that_others_leave_busier_still_serves_the_adapter_it_holds():
    assert served_at_a_busy_holder() == 3


def test_that_test_notices_busy_holders_that_are_passed_by(monkeypatch):
    careless = without(endpoint_set, "busy-holders-serve").EndpointSet
    monkeypatch.setattr(scheduler, "EndpointSet", careless)
    assert served_at_a_busy_holder() == 1


def serves_until_the_ninth_adapter(queue: FairQueue) -> int:
    """How many of one tenant's requests for eight adapters are served before one for a ninth that came before them."""
    made = scheduler_of(queue, adapters=16, concurrent_requests=1, kv_tokens=10_000, queued_requests=1000)
    for lora_id in (*range(9), *range(8)):
        made.join(demand(lora_id=lora_id), 0.0)
    for served in range(200):
        ((ticket, place),) = made.serve(0.0)
        lora_id = ticket.demand.lora_id
        if lora_id == 8:
            return served
        made.join(demand(lora_id=lora_id), 0.0)
        made.give_back(ticket, place, 0.0, 0.0)
    return 200


def test_a_ninth_adapter_of_a_tenant_has_its_turn():
    assert serves_until_the_ninth_adapter(FairQueue()) < 20


def test_that_test_notices_lanes_that_do_not_move(monkeypatch):
    still = without(tenant_account, "every-adapter-has-a-turn").Bin
    monkeypatch.setattr(tenant_account, "Bin", still)
    assert serves_until_the_ninth_adapter(FairQueue()) == 200


async def charged_for_keeping() -> float:
    """What a tenant is charged that has an endpoint drained for a request, and leaves."""
    pool = ready_pool(concurrent_requests=8)
    running = [await acquire(pool, demand(tenant="small")) for _ in range(5)]
    large = await waiting(pool, cost=Cost(40, 40), tenant="large")
    large_counter = pool.counter("large")
    while pool.scheduler._kept is None:
        newcomer = await waiting(pool, tenant="small")
        running.pop(0).give_back()
        await settle()
        running.append(await newcomer)
    large.cancel()
    await settle()
    for grant in running:
        grant.give_back()
    return pool.counter("large") - large_counter


async def test_an_endpoint_is_not_kept_for_nothing():
    assert await charged_for_keeping() == OUTPUT_TOKEN_SERVICE * 80 / 100


async def test_that_test_notices_keeping_that_is_free(monkeypatch):
    monkeypatch.setattr(pool_module, "Scheduler", without(scheduler, "keeping-is-paid").Scheduler)
    assert await charged_for_keeping() == 0


async def test_what_was_paid_for_keeping_is_not_charged_again():
    ticket = Ticket(demand(Cost(40, 40)), 80, 1)
    queue = FairQueue()
    queue.configure(QueueLimits(places=1, kv_tokens=100))
    queue.join(ticket)
    queue.prepay(ticket, 160.0)
    queue.take(ticket)
    queue.charge(ticket, 100.0)
    assert queue.counter("t") == 160.0 / 100
    queue.charge(ticket, 40.0)
    assert queue.counter("t") == (160.0 + 20.0) / 100


def counted_after_a_refund(queue_module) -> float:
    """What a tenant is charged that lets an endpoint drain, is granted it, and leaves in that moment."""
    ticket = Ticket(demand(Cost(40, 40)), 80, 1)
    queue = queue_module.FairQueue()
    queue.configure(QueueLimits(places=1, kv_tokens=100))
    queue.join(ticket)
    queue.prepay(ticket, 160.0)
    queue.take(ticket)
    queue.charge(ticket, -40.0)
    return float(queue.counter("t"))


def test_what_was_paid_for_keeping_is_not_refunded_with_the_prompt():
    assert counted_after_a_refund(fair_queue) == 160.0 / 100


def test_that_test_notices_a_refund_of_what_was_prepaid():
    generous = changed(
        fair_queue, "keeping-is-not-refunded", "account.service += service / ticket.demand.weight"
    )
    assert counted_after_a_refund(generous) < 160.0 / 100


def refunded(queue_module) -> float:
    """What a tenant gets back for a prompt, by its counter, once its weight is a thousandth."""
    queue = queue_module.FairQueue()
    queue.configure(QueueLimits(places=2, kv_tokens=100))
    heavy = Ticket(demand(weight=1000), 20, 1)
    queue.join(heavy)
    queue.take(heavy)
    light = Ticket(demand(weight=1), 20, 2)
    queue.join(light)
    before = queue.counter("t")
    queue.charge(heavy, -float(COST.input_service))
    return float(before - queue.counter("t"))


def test_a_refund_is_worth_what_was_charged():
    assert refunded(fair_queue) == COST.input_service / 1000


def test_that_test_notices_a_refund_by_another_weight():
    by_today = changed(
        fair_queue,
        "keeping-is-not-refunded",
        "account.service += ticket.unpaid(service) / account.weight",
    )
    assert refunded(by_today) == COST.input_service


def expected_share(queue_module) -> float:
    """The share of a tenant that waits beside nine whose requests all run."""
    queue = queue_module.FairQueue()
    queue.configure(QueueLimits(places=20, kv_tokens=1000))
    for number in range(9):
        ticket = Ticket(demand(tenant=f"runs-{number}"), 20, number)
        queue.join(ticket)
        queue.take(ticket)
    queue.join(Ticket(demand(tenant="waits"), 20, 10))
    return float(queue.ahead(demand(tenant="waits"))[1])


def test_the_wait_is_estimated_by_those_that_wait():
    assert expected_share(fair_queue) == 1.0


def test_that_test_notices_tenants_that_wait_for_nothing():
    all_active = changed(
        fair_queue,
        "only-the-waiting-share",
        "share = demand.weight / self._active_weight",
    )
    assert expected_share(all_active) == 0.1


def test_a_pool_in_place_of_another_gives_no_credit_for_idle_time():
    first = FairQueue()
    first.configure(QueueLimits(places=1, kv_tokens=100))
    ticket = Ticket(demand(tenant="old"), 20, 1)
    first.join(ticket)
    first.take(ticket)
    first.charge(ticket, 5_000.0)
    first.give_back(ticket)
    second = FairQueue(first.service, first.floor)
    second.join(Ticket(demand(tenant="new"), 20, 2))
    assert second.counter("new") == first.counter("old")


async def floor_after_a_replacement(module) -> tuple[float, float]:
    """Where newcomers start in a pool that replaces one with a waiting tenant, and that tenant's counter."""
    directory = module.PoolDirectory(_Unasked(), ManualClock())
    directory.configure(_snapshot(concurrent_requests=1))
    pool = directory.pools[CONFIG.name]
    pool.probed("a", ready=True)
    grant = await acquire(pool, demand(tenant="old"))
    grant.charge(1_000)
    waits = await waiting(pool, tenant="waits")
    directory.configure(_snapshot(concurrent_requests=1, base_model="models/other"))
    await settle()
    assert waits.done()
    assert waits.exception() is not None
    grant.give_back()
    return directory.pools[CONFIG.name].scheduler.queue.floor, pool.counter("waits")


async def test_a_replaced_pool_starts_where_the_old_one_was():
    floor, counter = await floor_after_a_replacement(directory_module)
    assert floor == counter > 0


async def test_that_test_notices_a_pool_that_starts_at_nothing():
    careless = changed(directory_module, "floor-outlives-a-pool", "queue = FairQueue(known[1].service)")
    assert (await floor_after_a_replacement(careless))[0] == 0


async def test_fewer_that_may_wait_are_fewer_that_wait():
    pool = ready_pool(concurrent_requests=1, queued_requests=8)
    held = await acquire(pool, demand())
    waits = [await waiting(pool, tenant=tenant) for tenant in "aabbc"]
    pool.configure(replace(CONFIG, concurrent_requests=1, queued_requests=3))
    await settle()
    assert [task.done() for task in waits] == [False, True, False, True, False]
    for task in waits:
        task.cancel()
    held.give_back()
    await settle()


async def test_one_tenant_keeps_no_more_than_its_part_of_fewer_that_may_wait():
    pool = ready_pool(concurrent_requests=1, queued_requests=8)
    held = await acquire(pool, demand())
    waits = [await waiting(pool, tenant=tenant) for tenant in "aaa"]
    pool.configure(replace(CONFIG, concurrent_requests=1, queued_requests=4))
    await settle()
    assert [task.done() for task in waits] == [False, False, True]
    for task in waits:
        task.cancel()
    held.give_back()
    await settle()


class _Unasked:
    async def ready(self, target: str, server_model: str, timeout_seconds: float) -> bool:
        raise AssertionError("pools are told by the test")


def _snapshot(**changes) -> Any:
    return SimpleNamespace(pools={CONFIG.name: replace(CONFIG, **changes)})
