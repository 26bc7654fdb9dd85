"""Order of arrival, and that a pool does what its discipline says, whichever it is."""

from __future__ import annotations

from services.router.pool import fifo_queue
from services.router.pool.endpoints import Endpoint, EndpointCapacity, Server, Spot
from services.router.pool.fifo_queue import FifoQueue
from services.router.pool.queue_discipline import Ticket
from tests.unit.router.pool.small_pools import acquire, demand, ready_pool, waiting

SPOT = Spot(Endpoint("a", Server(), EndpointCapacity(1, 1, 1)))


def queue_of(count: int) -> tuple[FifoQueue, list[Ticket]]:
    queue = FifoQueue()
    tickets = [Ticket(demand(), 20, number) for number in range(count)]
    for ticket in tickets:
        queue.join(ticket)
    return queue, tickets


def chosen(queue: FifoQueue, *unable: Ticket) -> Ticket | None:
    found = queue.choose(lambda ticket, headroom: None if ticket in unable else SPOT)
    return None if found is None else found[0]


def test_the_oldest_is_next_and_one_that_leaves_is_gone():
    queue, (first, second, third) = queue_of(3)
    assert chosen(queue) is first
    queue.take(first)
    queue.leave(second)
    queue.leave(second)
    assert chosen(queue) is third
    assert len(queue) == 1


def test_only_later_arrivals_overtake(monkeypatch):
    monkeypatch.setattr(fifo_queue, "MAX_OVERTAKES", 2)
    queue, (first, second, third, fourth) = queue_of(4)
    for oldest in (first, second):
        assert chosen(queue) is oldest
        queue.take(oldest)
    assert queue.starving() is None
    assert chosen(queue, third) is fourth
    assert queue.starving() is None
    assert chosen(queue, third) is fourth
    assert queue.starving() is third
    queue.leave(third)
    assert queue.starving() is None


class LastComeFirstServed(FifoQueue):
    def choose(self, find):
        for ticket in reversed(self._waiting):
            if (spot := find(ticket, True)) is not None:
                return ticket, spot
        return None


async def test_a_pool_serves_in_the_order_of_its_queue_and_charges_it(monkeypatch):
    charged, queue = [], LastComeFirstServed()
    monkeypatch.setattr(queue, "charge", lambda ticket, service: charged.append((ticket.demand, service)))
    pool = ready_pool(queue, concurrent_requests=1)
    held = await acquire(pool, demand())
    held.charge(3)
    assert charged == [(demand(), 6)]
    early, late = await waiting(pool), await waiting(pool)
    held.give_back()
    (await late).give_back()
    (await early).give_back()
    assert pool.in_flight == pool.queued == 0
