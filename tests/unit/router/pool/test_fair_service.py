"""What tenants are given of a pool, on simulated time: the bounds of the VTC paper, weights, lifts, priorities."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.router.pool import fair_queue
from services.router.pool.demand import OUTPUT_TOKEN_SERVICE
from services.router.pool.fair_queue import FairQueue
from services.router.pool.fifo_queue import FifoQueue
from services.router.pool.queue_discipline import MAX_OVERTAKES
from services.router.pool.tenant_account import MAX_PASSED
from services.router.snapshot.model import PoolConfig
from tests.fakes.batch_server import POOL, Arrival, Simulation, poisson
from tests.fakes.mutants import changed, without

SMALL = replace(POOL, concurrent_requests=4, kv_tokens=1024, queued_requests=64, kv_block_tokens=16)


def bound(config: PoolConfig, most_input: int, weight: int = 1) -> float:
    """VTC's theorem 4.4, 2 max(w_p L_input, w_q M), and the window: what two places can come to."""
    capacity = max(most_input, OUTPUT_TOKEN_SERVICE * config.kv_tokens)
    window = 2 * OUTPUT_TOKEN_SERVICE * config.kv_tokens / config.concurrent_requests
    return (2 * capacity + window) / weight


def refill(simulation: Simulation, arrivals: dict[str, list[Arrival]]) -> None:
    """Keep at least two requests of each tenant waiting, as long as it has any left to send."""
    for tenant, left in arrivals.items():
        while left and simulation.waiting(tenant) < 2:
            simulation.arrive(replace(left.pop(), at=simulation.now))


def requests_of(tenant: str, weight: int):
    return st.lists(
        st.builds(
            Arrival,
            at=st.just(0.0),
            tenant=st.just(tenant),
            input_tokens=st.integers(1, 300),
            output_tokens=st.integers(1, 120),
            max_output_tokens=st.integers(16, 160),
            weight=st.just(weight),
            priority=st.integers(1, 3),
            leaves_after=st.sampled_from([None, None, None, -1, 1, 5]),
        ),
        min_size=30,
        max_size=60,
    )


@settings(max_examples=40, deadline=None)
@given(
    requests_of("a", 1),
    requests_of("b", 2),
    requests_of("c", 1),
    st.sampled_from([1, 3]),
)
def test_two_backlogged_tenants_are_never_further_apart_than_the_bound(a, b, c, c_stops_at):
    """At every step of any history, with callers that leave and a third tenant that comes and goes."""
    simulation = Simulation(FairQueue(), config=SMALL)
    own = {"a": a, "b": b}
    steps = itertools.count()
    while all(own.values()):
        refill(simulation, own)
        if next(steps) // 16 % (2 * c_stops_at) >= c_stops_at:
            refill(simulation, {"c": c})
        simulation.step()
        service = simulation.seen.service
        assert abs(service["a"] / 1 - service["b"] / 2) <= bound(SMALL, 300)


def widest_gap(queue, seconds: float) -> float:
    """Two tenants with a backlog each, one with four times as many requests: how far apart they come."""
    gaps = []
    simulation = Simulation(queue, config=SMALL)
    while simulation.now < seconds:
        for tenant, wanted in (("few", 8), ("many", 32)):
            while simulation.waiting(tenant) < wanted:
                simulation.arrive(Arrival(simulation.now, tenant))
        simulation.step()
        gaps.append(abs(simulation.seen.service["few"] - simulation.seen.service["many"]))
    return max(gaps)


def test_the_gap_stays_flat_however_long_it_goes_on():
    assert widest_gap(FairQueue(), 30) <= widest_gap(FairQueue(), 60) <= bound(SMALL, 40) / 4


def test_order_of_arrival_drifts_apart():
    assert widest_gap(FifoQueue(), 60) > bound(SMALL, 40)


def shares(queue, weights: dict[str, int], seconds: float) -> dict[str, float]:
    """What each tenant is given for its weight while all have more waiting than can run; the first 20 s not counted."""
    simulation = Simulation(queue, config=replace(POOL, queued_requests=1000))
    rng, before = random.Random(1), dict[str, float]()
    while simulation.now < 20 + seconds:
        if simulation.now < 20:
            before = dict(simulation.seen.service)
        for tenant, weight in weights.items():
            while simulation.waiting(tenant) < 4:
                tokens = rng.randint(16, 112)
                simulation.arrive(Arrival(simulation.now, tenant, output_tokens=tokens, weight=weight))
        simulation.step()
    given = {tenant: simulation.seen.service[tenant] - before[tenant] for tenant in weights}
    return {tenant: given[tenant] / weight for tenant, weight in weights.items()}


def test_service_goes_by_weight():
    service = shares(FairQueue(), {"one": 100, "two": 200, "four": 400}, 60)
    mean = sum(service.values()) / 3
    assert all(abs(given - mean) <= 0.05 * mean for given in service.values()), service


def test_that_test_notices_a_queue_that_reads_no_weight():
    service = shares(FifoQueue(), {"one": 100, "two": 200, "four": 400}, 60)
    assert service["one"] > 2 * service["four"]


def service_after_return(queue_class) -> tuple[float, float]:
    """What one who was away for a minute and one who stayed are given in the next ten seconds."""
    simulation, rng = Simulation(queue_class()), random.Random(1)

    def flood(tenants, until):
        while simulation.now < until:
            for tenant in tenants:
                while simulation.waiting(tenant) < 24:
                    simulation.arrive(Arrival(simulation.now, tenant, output_tokens=rng.randint(16, 112)))
            simulation.step()

    flood(["stays", "away"], 10)
    for ticket in list(simulation.scheduler.queue.tickets()):
        if ticket.demand.tenant_uid == "away":
            simulation.scheduler.leave(ticket, simulation.now)
            del simulation._waiting[ticket]
    flood(["stays"], 70)
    before = dict(simulation.seen.service)
    flood(["away", "stays"], 80)
    given = simulation.seen.service
    return given["away"] - before["away"], given["stays"] - before["stays"]


def test_a_tenant_that_comes_back_gets_its_share_and_no_more():
    away, stays = service_after_return(FairQueue)
    assert abs(away - stays) <= 0.25 * stays


def test_that_test_notices_idle_time_that_is_saved_up():
    away, stays = service_after_return(without(fair_queue, "lift").FairQueue)
    assert away > 3 * stays


def test_what_ran_is_charged_whether_or_not_its_caller_stays():
    """A tenant whose callers leave after five tokens gets no more of the pool than one whose callers stay."""
    simulation = Simulation(FairQueue())
    while simulation.now < 30:
        for tenant, leaves_after in (("leaves", 5), ("stays", None)):
            while simulation.waiting(tenant) < 8:
                arrival = Arrival(
                    simulation.now, tenant, input_tokens=200, leaves_after=leaves_after, max_output_tokens=64
                )
                simulation.arrive(arrival)
        simulation.step()
    assert abs(simulation.seen.service["leaves"] - simulation.seen.service["stays"]) <= bound(POOL, 200) / 4


def grants_until_low(high_first: bool) -> int:
    """How many of a tenant's requests of high priority are served before its one of low priority."""
    simulation = Simulation(FairQueue(), config=replace(SMALL, concurrent_requests=1))
    simulation.arrive(Arrival(0.0, "t", priority=3, output_tokens=1))
    simulation.arrive(Arrival(0.0, "t", priority=1, output_tokens=1, input_tokens=1))
    low = next(t for t in simulation.scheduler.queue.tickets() if t.demand.priority == 1)
    if not high_first:
        simulation.arrive(Arrival(0.0, "t", priority=2, output_tokens=1))
    for served in range(100):
        while simulation.waiting("t") < 3:
            simulation.arrive(Arrival(simulation.now, "t", priority=3, output_tokens=1))
        simulation.step()
        if low not in simulation._waiting:
            return served
    return 100


@pytest.mark.parametrize("high_first", [True, False])
def test_low_priority_waits_a_bounded_number_of_turns(high_first):
    assert MAX_PASSED - 1 <= grants_until_low(high_first) <= 2 * MAX_PASSED + 1


def test_that_test_notices_priorities_that_never_age(monkeypatch):
    monkeypatch.setattr("services.router.pool.tenant_account.MAX_PASSED", 1000)
    assert grants_until_low(True) == 100


def test_priority_comes_before_order_within_a_tenant_and_means_nothing_between_tenants():
    simulation = Simulation(FairQueue(), config=replace(SMALL, concurrent_requests=1))
    simulation.arrive(Arrival(0.0, "b", output_tokens=4))
    for priority in (1, 2, 3):
        simulation.arrive(Arrival(0.0, "b", priority=priority, output_tokens=4))
    simulation.arrive(Arrival(0.0, "a", priority=1, output_tokens=4))
    order = []
    while simulation.running or simulation._waiting:
        for running in simulation.running:
            if running.ticket not in order:
                order.append(running.ticket)
        simulation.step()
    served = [(ticket.demand.tenant_uid, ticket.demand.priority) for ticket in order]
    assert served == [("b", 2), ("a", 1), ("b", 3), ("b", 2), ("b", 1)]


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_every_request_is_served_while_others_keep_coming(data):
    """Of any size, priority and weight, beside tenants that never pause: within a bounded number of grants."""
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    size = data.draw(st.sampled_from([16, 300, 800, 1000]))
    weight, others = data.draw(st.sampled_from([1, 100])), data.draw(st.integers(1, 3))
    simulation = Simulation(FairQueue(), config=SMALL)
    one = Arrival(
        0.0, "one", input_tokens=size, output_tokens=4, weight=weight, priority=1, max_output_tokens=8
    )
    for step in range(4000):
        for other in range(others):
            while simulation.waiting(f"other-{other}") < 3:
                tokens, output = rng.randint(1, 100), rng.randint(1, 30)
                simulation.arrive(
                    Arrival(
                        simulation.now, f"other-{other}", tokens, output, max_output_tokens=32, weight=100
                    )
                )
        if step == 20:
            simulation.arrive(replace(one, at=simulation.now))
            began = sum(simulation.seen.finished.values())
        simulation.step()
        if simulation.seen.first_token_seconds["one"]:
            break
    # It is lifted to the others' level, so the slack and an endpoint's draining is all that it waits for.
    assert simulation.seen.first_token_seconds["one"]
    assert sum(simulation.seen.finished.values()) - began <= MAX_OVERTAKES + 100


SHARE = 3.0
"""Requests a second: half of what the simulated server takes of `poisson`."""


def first_token_p99(queue_class, attacker: float, headroom: int = 0) -> float:
    """A victim at half its share beside an attacker, over three seeds."""
    seen, seconds = [], 150
    for seed in (1, 2, 3):
        arrivals = [
            *poisson(random.Random(seed), "victim", SHARE / 2, seconds),
            *poisson(random.Random(seed + 100), "attacker", attacker, seconds),
        ]
        config = replace(POOL, headroom_requests=headroom)
        served = Simulation(queue_class(), arrivals, config).run(seconds)
        seen += served.first_token_seconds["victim"] + [float("inf")] * served.refused["victim"]
    assert len(seen) > 600
    return sorted(seen)[int(len(seen) * 0.99)]


def test_a_flood_is_hardly_felt_by_one_who_keeps_to_its_share():
    assert first_token_p99(FairQueue, 10 * SHARE) <= 1.3 * first_token_p99(FairQueue, SHARE)


def test_that_test_notices_order_of_arrival():
    assert first_token_p99(FifoQueue, 10 * SHARE) == float("inf")


def test_headroom_halves_the_middling_wait():
    def median(headroom: int) -> float:
        rng = random.Random(1)
        arrivals = [*poisson(rng, "victim", SHARE / 2, 100), *poisson(rng, "attacker", 10 * SHARE, 100)]
        config = replace(POOL, headroom_requests=headroom)
        return Simulation(FairQueue(), arrivals, config).run(100).first_token("victim", 0.5)

    assert median(2) <= median(0) / 2


def service_beside_long_contexts(queue_class) -> float:
    """How much of what it asks for a chat tenant is given beside one with long prompts, whose callers mostly leave."""
    rng, seconds = random.Random(101), 100
    long = [
        Arrival(
            rng.uniform(0, seconds),
            "long",
            input_tokens=1500,
            output_tokens=rng.randint(50, 500),
            max_output_tokens=512,
            leaves_after=rng.choice([None, 1, 1]),
        )
        for _ in range(2 * seconds)
    ]
    chat = list(poisson(random.Random(1), "chat", SHARE / 2, seconds))
    asked = sum(arrival.input_tokens + OUTPUT_TOKEN_SERVICE * arrival.output_tokens for arrival in chat)
    simulation = Simulation(queue_class(), [*chat, *long], replace(POOL, headroom_requests=2))
    return simulation.run(seconds).service["chat"] / asked


def test_a_chat_is_given_what_it_asks_beside_long_contexts():
    assert service_beside_long_contexts(FairQueue) >= 0.9


def test_that_test_notices_headroom_for_those_who_were_given_much():
    careless = changed(fair_queue, "headroom-in-order", "in_line = True").FairQueue
    assert service_beside_long_contexts(careless) < 0.8


def test_fairness_costs_no_throughput():
    rng = random.Random(1)
    arrivals = [*poisson(rng, "victim", SHARE / 2, 100), *poisson(rng, "attacker", 10 * SHARE, 100)]
    fair, fifo = (Simulation(queue(), arrivals).run(100) for queue in (FairQueue, FifoQueue))
    assert fair.tokens / fair.seconds >= 0.98 * fifo.tokens / fifo.seconds
