"""One server that two pools name, as configs from before the config service's rule may have it."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import replace

import pytest

from services.common.errors import UnavailableError
from services.router.pool import directory as directory_module
from services.router.pool import endpoint_set as endpoint_set_module
from services.router.pool import endpoints as endpoints_module
from services.router.pool import fair_queue as fair_queue_module
from services.router.pool.demand import Cost
from services.router.pool.directory import PoolDirectory
from services.router.pool.endpoints import Place, Servers
from services.router.pool.fair_queue import FairQueue
from services.router.pool.pool import Pool
from services.router.pool.probing import Served
from services.router.pool.queue_discipline import Ticket
from services.router.pool.scheduler import Scheduler
from services.router.snapshot.model import Snapshot
from tests.fakes.manual_clock import ManualClock
from tests.fakes.mutants import changed, without
from tests.fakes.router_pipeline import UnaskedProbe
from tests.unit.router.pool.small_pools import CONFIG, acquire, demand, settle, waiting

SHARED = replace(CONFIG, kv_tokens=10_000, queued_requests=20_000)


def pools_of(*configs, module=directory_module) -> tuple[PoolDirectory, list[Pool]]:
    directory = module.PoolDirectory(UnaskedProbe(), ManualClock())
    directory.configure(Snapshot(1, {}, {}, {config.name: config for config in configs}))
    for config in configs:
        for target in config.targets:
            directory.probed(Served(target, config.server_model), ready=True)
    return directory, [directory.pool(config) for config in configs]


async def taken_at_one_server(servers=None) -> int:
    """Places that two pools give at one server, which takes two requests; they spell it differently."""
    one, other = (
        replace(SHARED, name=f"pools/{name}", targets=(target,))
        for name, target in (("one", "gpu7:8001"), ("other", "GPU7.:8001"))
    )
    directory, pools = pools_of()
    if servers is not None:
        directory._servers = servers
    directory.configure(Snapshot(2, {}, {}, {config.name: config for config in (one, other)}))
    for config in (one, other):
        directory.probed(Served(config.targets[0], config.server_model), ready=True)
    pools = [directory.pool(one), directory.pool(other)]
    requests = [await waiting(pool) for pool in pools * 2]
    taken = sum(request.done() for request in requests)
    for request in requests:
        if not request.done():
            request.cancel()
    await settle()
    for request in requests:
        if request.done() and not request.cancelled():
            (await request).give_back()
    return taken


async def test_a_server_of_two_pools_takes_what_it_can_carry_and_no_more():
    assert await taken_at_one_server() == 2


async def test_that_test_notices_a_load_that_each_pool_counts_for_itself():
    each = changed(endpoints_module, "one-ledger-a-server", "return Server()")
    assert await taken_at_one_server(each.Servers()) == 4


async def test_a_place_that_one_pool_gives_back_is_the_others():
    configs = [replace(SHARED, name=f"pools/{name}", concurrent_requests=1) for name in "ab"]
    _, (one, other) = pools_of(*configs)
    held = await acquire(one, demand())
    waits = await waiting(other)
    assert not waits.done()
    held.give_back()
    await settle()
    assert waits.done()
    (await waits).give_back()


def larges_served_at_one_server() -> int:
    """Two pools of a server each have a large request that waits beside a steady stream of small ones of both."""
    servers, running, scheduled = Servers(), deque[tuple[Scheduler, Ticket, Place]](), []
    for name in "ab":
        config = replace(CONFIG, name=f"pools/{name}", concurrent_requests=8, queued_requests=64)
        scheduled.append(Scheduler(config, FairQueue(), servers))
        scheduled[-1].probed("a", ready=True)
    larges = []
    for turn in range(500):
        for scheduler in scheduled:
            scheduler.join(demand(tenant="small"), 0.0)
            if turn == 8:
                larges.append(scheduler.join(demand(Cost(45, 45), tenant="large"), 0.0))
        # As a server's pools do, one after the other.
        for scheduler in scheduled if turn % 2 else reversed(scheduled):
            running += [(scheduler, *served) for served in scheduler.serve(0.0)]
        if running:
            scheduler, ticket, place = running.popleft()
            scheduler.give_back(ticket, place, 0.0, 0.0)
            if ticket in larges:
                larges.remove(ticket)
    return 2 - len(larges)


def test_a_large_request_of_each_pool_of_a_server_has_its_turn():
    assert larges_served_at_one_server() == 2


def test_that_test_notices_a_server_that_only_one_pool_keeps(monkeypatch):
    for_itself = changed(
        endpoints_module,
        "kept-from-every-pool",
        "return self.usable and self.server.keeper is not self and self.server.requests < self.capacity.requests",
    )
    monkeypatch.setattr(endpoint_set_module, "Endpoint", for_itself.Endpoint)
    assert larges_served_at_one_server() < 2


async def served_of_the_second_pool(module=endpoints_module) -> int:
    """Of 40 places that become free, those that the second of a server's two pools gets; requests wait in both."""
    servers, clock = module.Servers(), ManualClock()
    pools = [
        Pool(replace(SHARED, name=f"pools/{name}", concurrent_requests=1), FairQueue(), servers, clock)
        for name in "ab"
    ]
    for pool in pools:
        pool.probed("a", ready=True)
    held = await acquire(pools[0], demand())
    requests = [[await waiting(pool) for _ in range(40)] for pool in pools]
    second = 0
    for _ in range(40):
        held.give_back()
        await settle()
        ((owner, task),) = [(owner, task) for owner in (0, 1) for task in requests[owner] if task.done()]
        requests[owner].remove(task)
        held = await task
        second += owner
    for task in (*requests[0], *requests[1]):
        task.cancel()
    await settle()
    held.give_back()
    return second


async def test_the_pools_of_a_server_take_turns():
    assert await served_of_the_second_pool() == 20


async def test_that_test_notices_a_pool_that_is_always_first():
    assert await served_of_the_second_pool(without(endpoints_module, "pools-in-turn")) == 0


async def test_what_a_pool_no_longer_keeps_is_the_others(monkeypatch):
    monkeypatch.setattr(fair_queue_module, "MAX_OVERTAKES", 1)
    _, (one, other) = pools_of(
        *(replace(CONFIG, name=f"pools/{name}", concurrent_requests=8) for name in "ab")
    )
    held = await acquire(one, demand(Cost(10, 10)))
    large = await waiting(one, cost=Cost(45, 45))
    overtakes = await acquire(one, demand(Cost(10, 10)))
    waits = await waiting(other)
    assert not waits.done()
    large.cancel()
    await settle()
    assert waits.done()
    for grant in (held, overtakes, await waits):
        grant.give_back()


async def test_what_runs_for_a_pool_that_is_gone_still_counts():
    first = replace(SHARED, server_model="before", concurrent_requests=1)
    directory, (old,) = pools_of(first)
    held = await acquire(old, demand())
    second = replace(first, server_model="after")
    directory.configure(Snapshot(2, {}, {}, {second.name: second}))
    directory.probed(Served("a", "after"), ready=True)
    waits = await waiting(directory.pool(second))
    assert not waits.done()
    held.give_back()
    await settle()
    assert waits.done()
    (await waits).give_back()


async def test_what_tenants_were_given_outlives_a_pool_that_is_replaced():
    directory, (old,) = pools_of(SHARED)
    (await acquire(old, demand(Cost(30, 1)))).give_back()
    second = replace(SHARED, server_model="after")
    directory.configure(Snapshot(2, {}, {}, {second.name: second}))
    assert dict(directory.pool(second).service)["t"] == 30 / 100


async def foreign_at_a_dedicated_server(owner_ready: bool, module=directory_module) -> int:
    """Of 10,000 requests of a shared pool that names a dedicated server too: how many get a place there."""
    theirs = replace(SHARED, name="pools/theirs", targets=("own:1",), dedicated_to_uid="owner")
    shared = replace(SHARED, name="pools/shared", targets=("a", "OWN.:1"), concurrent_requests=1)
    directory, (_, pool) = pools_of(theirs, shared, module=module)
    directory.probed(Served("own:1", SHARED.server_model), ready=owner_ready)
    there = 0
    for _ in range(5_000):
        requests = [await waiting(pool), await waiting(pool)]
        for request in requests:
            grant = await request if request.done() else None
            if grant is None:
                request.cancel()
            else:
                there += grant.target != "a"
                grant.give_back()
        await asyncio.sleep(0)
    return there


@pytest.mark.parametrize("owner_ready", [True, False])
async def test_no_foreign_request_gets_a_place_at_a_dedicated_server(owner_ready):
    assert await foreign_at_a_dedicated_server(owner_ready) == 0


async def test_that_test_notices_pools_that_keep_what_is_anothers():
    careless = changed(directory_module, "dedicated-targets", "kept[name] = config")
    assert await foreign_at_a_dedicated_server(True, careless) > 1_000


async def test_a_request_with_a_place_at_a_server_that_becomes_dedicated_is_not_sent():
    shared = replace(SHARED, targets=("a", "b"))
    directory, (pool,) = pools_of(shared)
    grants = [await acquire(pool, demand()) for _ in range(2)]
    theirs = replace(SHARED, name="pools/theirs", targets=("b",), dedicated_to_uid="owner")
    directory.configure(Snapshot(2, {}, {}, {shared.name: shared, theirs.name: theirs}))
    assert sorted((grant.target, grant.withdrawn) for grant in grants) == [("a", False), ("b", True)]
    for grant in grants:
        grant.give_back()


async def test_a_pool_whose_every_server_is_anothers_serves_nobody():
    theirs = replace(SHARED, name="pools/theirs", dedicated_to_uid="owner")
    _, (_, pool) = pools_of(theirs, SHARED)
    with pytest.raises(UnavailableError):
        await acquire(pool, demand())


async def test_of_two_dedicated_pools_the_one_that_came_first_keeps_the_server():
    first, second = (
        replace(SHARED, name=f"pools/{owner}", dedicated_to_uid=owner) for owner in ("first", "second")
    )
    _, (one, other) = pools_of(first, second)
    assert (one.targets, other.targets) == (["a"], [])
