"""The decision over queue and endpoints: no place is left free that somebody could use, and what a decision costs."""

from __future__ import annotations

import random
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.router.pool.demand import Cost, Demand
from services.router.pool.endpoints import Place, Servers
from services.router.pool.fair_queue import MAX_IDLE, FairQueue
from services.router.pool.fifo_queue import FifoQueue
from services.router.pool.queue_discipline import Ticket
from services.router.pool.scheduler import Scheduler
from services.router.pool.tenant_account import kind_of
from tests.unit.router.pool.small_pools import CONFIG

ADAPTERS = (None, None, 1, 2, 3)


def scheduler_of(queue, targets: int, **changes) -> Scheduler:
    names = tuple(f"server-{number}:1" for number in range(targets))
    scheduler = Scheduler(replace(CONFIG, targets=names, **changes), queue, Servers())
    for name in names:
        scheduler.probed(name, ready=True)
    return scheduler


class History:
    """Random requests of a few tenants at a few endpoints, with loads that end, fail and are cancelled."""

    def __init__(self, queue, rng: random.Random, tenants: str, **changes) -> None:
        self.rng = rng
        self.tenants = tenants
        self.scheduler = scheduler_of(queue, rng.randint(1, 3), queued_requests=100, **changes)
        self.held: list[tuple[Ticket, Place]] = []

    def step(self) -> None:
        scheduler, rng = self.scheduler, self.rng
        what = rng.random()
        if what < 0.5:
            tenant, lora_id = rng.choice(self.tenants), rng.choice(ADAPTERS)
            cost = Cost(rng.randint(1, 60), rng.randint(1, 50))
            weight, priority = rng.choice((1, 5)), rng.randint(1, 3)
            demand = Demand(tenant, cost, lora_id and ord(tenant) * 10 + lora_id, weight, priority)
            scheduler.join(demand, 0.0)
        elif what < 0.8 and self.held:
            ticket, place = self.held.pop(rng.randrange(len(self.held)))
            if rng.random() < 0.5:
                place.adapter_accepted()
            scheduler.give_back(ticket, place, 0.0, 0.0)
        elif what < 0.9 and self.held:
            ticket, place = rng.choice(self.held)
            place.adapter_accepted()
            scheduler.charge(ticket, rng.randint(1, 40))
        elif len(scheduler.queue):
            leaves = rng.choice(sorted(scheduler.queue.tickets(), key=lambda ticket: ticket.number))
            scheduler.leave(leaves, 0.0)
        self.held += scheduler.serve(0.0)

    def could_run(self) -> list:
        """What waits and fits somewhere without the headroom, were it the largest of its kind: looks at everything."""
        return [
            (ticket, endpoint.target)
            for ticket in self.scheduler.queue.tickets()
            for endpoint in self.scheduler.endpoints
            if endpoint.server.keeper is None
            and endpoint.admits(largest_of_its_kind(ticket), ticket.demand.lora_id, headroom=False)
        ]


def largest_of_its_kind(ticket: Ticket) -> int:
    size = ticket.kv_tokens
    while kind_of(replace(ticket, kv_tokens=size + 1)) == kind_of(ticket):
        size += 1
    return size


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32),
    st.sampled_from([FairQueue, FifoQueue]),
    st.sampled_from([0, 1]),
    st.sampled_from([("abc", 3, 100), ("abcdefgh", 8, 400)]),
)
def test_nothing_waits_that_could_run(seed, queue, headroom, sizes):
    """Also with more tenants of one kind than are tried, and more adapters than slots."""
    tenants, places, kv_tokens = sizes
    history = History(
        queue(),
        random.Random(seed),
        tenants,
        concurrent_requests=places,
        kv_tokens=kv_tokens,
        headroom_requests=headroom,
    )
    for _ in range(150):
        history.step()
        assert history.could_run() == []
        for endpoint in history.scheduler.endpoints:
            assert endpoint.requests <= places
            assert endpoint.requests <= 1 or endpoint.kv_tokens <= kv_tokens
    for ticket, place in history.held:
        history.scheduler.give_back(ticket, place, 0.0, 0.0)
    history.held = list(history.scheduler.serve(0.0))
    while history.held:
        ticket, place = history.held.pop()
        history.scheduler.give_back(ticket, place, 0.0, 0.0)
        history.held += history.scheduler.serve(0.0)
    assert len(history.scheduler.queue) == history.scheduler.endpoints.requests == 0
    assert history.scheduler.endpoints.kv_tokens == 0


def test_the_headroom_is_for_tenants_below_their_share():
    scheduler = scheduler_of(FairQueue(), 1, concurrent_requests=8, kv_tokens=10_000, headroom_requests=2)
    for _ in range(8):
        scheduler.join(Demand("greedy", Cost(1, 1), None), 0.0)
    assert len(list(scheduler.serve(0.0))) == 6
    for _ in range(3):
        scheduler.join(Demand("modest", Cost(1, 1), None), 0.0)
    served = list(scheduler.serve(0.0))
    assert [ticket.demand.tenant_uid for ticket, _ in served] == ["modest"] * 2


def test_a_tenant_above_its_share_gives_way_within_the_slack():
    """Of the KV cache too: one whose long contexts fill most of it lets another one in first."""
    scheduler = scheduler_of(FairQueue(), 1, concurrent_requests=8, kv_tokens=10_000)
    scheduler.join(Demand("long", Cost(10, 8000), None), 0.0)
    scheduler.join(Demand("chat", Cost(40, 40), None), 0.0)
    (long, _), (chat, _) = scheduler.serve(0.0)
    scheduler.join(Demand("long", Cost(10, 1900), None), 0.0)
    (held,) = scheduler.serve(0.0)
    scheduler.join(Demand("long", Cost(10, 30), None), 0.0)
    scheduler.join(Demand("chat", Cost(10, 30), None), 0.0)
    # By the counters alone the long context's tenant would be next.
    scheduler.charge(chat, 50)
    assert list(scheduler.serve(0.0)) == []
    scheduler.give_back(*held, 0.0, 0.0)
    first = next(iter(scheduler.serve(0.0)))[0]
    assert first.demand.tenant_uid == "chat"
    assert long.demand.tenant_uid == "long"


def warm_order(losses: int) -> list[int | None]:
    """In which order adapters are served at a server whose slots are full, by how many warm requests wait."""
    scheduler = scheduler_of(FairQueue(), 1, concurrent_requests=2, adapters=1, kv_tokens=100_000)
    scheduler.join(Demand("a", Cost(1, 1), 7), 0.0)
    ((ticket, place),) = scheduler.serve(0.0)
    place.adapter_accepted()
    scheduler.join(Demand("b", Cost(1, 1), None), 0.0)
    ((other, held),) = scheduler.serve(0.0)
    scheduler.join(Demand("cold", Cost(1, 1), 8), 0.0)
    for number in range(losses):
        scheduler.join(Demand(f"warm-{number}", Cost(1, 1), 7), 0.0)
    scheduler.give_back(ticket, place, 0.0, 0.0)
    order = []
    while served := list(scheduler.serve(0.0)):
        for ticket, place in served:
            order.append(ticket.demand.lora_id)
            place.adapter_accepted()
            scheduler.give_back(ticket, place, 0.0, 0.0)
    scheduler.give_back(other, held, 0.0, 0.0)
    return order


def test_an_adapter_that_is_there_comes_before_one_that_pushes_it_out_a_bounded_number_of_times():
    assert warm_order(3) == [7, 7, 7, 8]
    order = warm_order(20)
    assert len(order) == 21
    assert 1 <= order.index(8) <= 8


def decision_calls(tenants: int, endpoints: int) -> float:
    """Function calls of a decision, a mean, while every place is taken and every tenant waits."""
    rng, places = random.Random(1), 4
    scheduler = scheduler_of(
        FairQueue(), endpoints, concurrent_requests=places, kv_tokens=8192, queued_requests=1 << 20
    )
    held: list[tuple[Ticket, Place]] = []

    def join():
        tenant = f"t{rng.randrange(tenants)}"
        scheduler.join(Demand(tenant, Cost(rng.randint(1, 500), rng.randint(1, 200)), None), 0.0)

    for number in range(tenants + places * endpoints):
        scheduler.join(Demand(f"t{number % tenants}", Cost(rng.randint(1, 500), 100), None), 0.0)
        held += scheduler.serve(0.0)
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event in {"call", "c_call"}

    for _ in range(100):
        ticket, place = held.pop(rng.randrange(len(held)))
        for running, _ in rng.sample(held, min(8, len(held))):
            scheduler.charge(running, 2)
        sys.setprofile(count)
        try:
            scheduler.give_back(ticket, place, 0.0, 0.0)
            held += scheduler.serve(0.0)
        finally:
            sys.setprofile(None)
        while len(scheduler.queue) < tenants:
            join()
        held += scheduler.serve(0.0)
    return calls / 100


def test_a_decision_does_not_cost_more_for_more_tenants_or_endpoints():
    few, many = decision_calls(100, 8), decision_calls(3_000, 64)
    assert many <= 1.5 * few, (few, many)


@pytest.mark.parametrize("queue", [FairQueue, FifoQueue])
def test_a_decision_does_not_cost_more_for_more_that_wait(queue):
    """One tenant with ten times the requests queued."""

    def calls(waiting: int) -> int:
        scheduler = scheduler_of(queue(), 1, concurrent_requests=1, queued_requests=1 << 20)
        for _ in range(waiting):
            scheduler.join(Demand("t", Cost(1, 1), None), 0.0)
        ((ticket, place),) = scheduler.serve(0.0)
        count = 0

        def seen(frame, event, argument):
            nonlocal count
            count += event in {"call", "c_call"}

        sys.setprofile(seen)
        try:
            scheduler.give_back(ticket, place, 0.0, 0.0)
            list(scheduler.serve(0.0))
        finally:
            sys.setprofile(None)
        return count

    assert calls(3000) <= calls(30) + 5


def test_counters_are_kept_of_tenants_that_went_idle_last():
    scheduler = scheduler_of(FairQueue(), 1)
    for number in range(MAX_IDLE + 100):
        scheduler.join(Demand(f"t{number}", Cost(5, 1), None), 0.0)
        ((ticket, place),) = scheduler.serve(0.0)
        scheduler.give_back(ticket, place, 0.0, 0.0)
    kept = dict(scheduler.queue.service)
    assert len(kept) == MAX_IDLE
    assert "t99" not in kept
    assert kept[f"t{MAX_IDLE + 99}"] > 0
    # They outlive a pool that is replaced.
    assert dict(FairQueue(scheduler.queue.service).service) == kept
