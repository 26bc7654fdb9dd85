"""Requests that queue, or are about to leave, while their pool is replaced by another one."""

from __future__ import annotations

import asyncio

from services.common.errors import Reason, UnavailableError
from services.router.flow.grant import Grant
from services.router.pool.demand import Cost, Demand
from services.router.pool.pool_kind import PoolKind
from services.router.snapshot.compiler import compile_snapshot
from tests.fakes.router_config import ConfigWorld, tiny_rendition
from tests.fakes.router_pipeline import InstantWeights, PipelineWorld, SimulatedServer
from tests.unit.router.pool.small_pools import acquire


def two_tenants_and_one_place(world: ConfigWorld) -> None:
    world.pool(["server"], concurrent_requests=1)
    world.pool(["elsewhere"], name="pools/other")
    for name, ordinal in (("acme", 7), ("rival", 8)):
        world.key(world.tenant(name, ordinal), f"key-uid-{name}")


def dedicate(world: ConfigWorld) -> None:
    world.pool(["server"], concurrent_requests=1, dedicated_to="tenants/rival")


async def dispatched_after_dedication(folder) -> tuple[int, BaseException | None]:
    """How many requests reach the server if the pool passes to another tenant while one runs and one queues."""
    world = PipelineWorld(folder, SimulatedServer([ord("a")]), configure=two_tenants_and_one_place)
    world.server.hold.clear()
    runs = asyncio.create_task(world.pipeline.run(world.call("uid-acme"), None))
    await asyncio.wait_for(world.server.begun.wait(), 5)
    queues = asyncio.create_task(world.pipeline.run(world.call("uid-acme"), None))
    async with asyncio.timeout(5):
        while not world.pool().queued:  # noqa: ASYNC110 - the pool has no event of its own
            await asyncio.sleep(0)
    dedicate(world.config)
    world.apply(2)
    world.server.hold.set()
    _, pending = await asyncio.wait({runs, queues}, timeout=10)
    assert not pending
    assert runs.exception() is None
    assert world.leaks() == []
    return len(world.server.requests), queues.exception()


async def test_nothing_that_queued_for_the_old_pool_reaches_the_new_one(tmp_path):
    dispatched, refused = await dispatched_after_dedication(tmp_path)
    assert dispatched == 1
    assert isinstance(refused, UnavailableError)
    assert refused.reason is Reason.NO_READY_ENDPOINT


async def test_that_test_notices_a_pool_that_stays_the_same(tmp_path, monkeypatch):
    def without_owner(config):
        return PoolKind(config.name, config.base_model, config.server_model, config.dialect, None)

    monkeypatch.setattr(PoolKind, "of", without_owner)
    dispatched, _ = await dispatched_after_dedication(tmp_path)
    assert dispatched == 2


async def test_the_new_owner_is_served_at_once_by_servers_known_to_be_ready(tmp_path):
    world = PipelineWorld(tmp_path, SimulatedServer([ord("a")]), configure=two_tenants_and_one_place)
    dedicate(world.config)
    world.pools.configure(compile_snapshot(2, world.config.resources, world._loader.load).snapshot)
    assert await asyncio.wait_for(acquire(world.pool(), Demand("uid-rival", Cost(1, 1), None)), 5)


class HeldWeights(InstantWeights):
    """Opens an adapter only once it may."""

    def __init__(self) -> None:
        self.asked, self.open = asyncio.Event(), asyncio.Event()

    async def load(self, tenant_uid, binding):
        self.asked.set()
        await self.open.wait()
        return await super().load(tenant_uid, binding)


async def dispatched_when_granted(folder) -> int:
    """How many reach the server when the pool is another's by the time that the adapter's weights are opened."""
    world = PipelineWorld(folder, SimulatedServer([ord("a")]), configure=two_tenants_and_one_place)
    world.config.adapter("uid-acme", "tone", 1, tiny_rendition(1))
    world.apply(2)
    weights = world.pipeline._dispatcher._weights = HeldWeights()
    asks = asyncio.create_task(world.pipeline.run(world.call("uid-acme", adapter="tone"), None))
    await asyncio.wait_for(weights.asked.wait(), 5)
    assert world.pool().in_flight == 1
    dedicate(world.config)
    world.apply(3)
    weights.open.set()
    await asyncio.wait({asks}, timeout=10)
    assert isinstance(asks.exception(), UnavailableError | None)
    assert world.leaks() == []
    return len(world.server.requests)


async def test_nothing_that_had_a_place_in_the_old_pool_is_sent_to_the_new_one(tmp_path):
    assert await dispatched_when_granted(tmp_path) == 0


async def test_that_test_notices_a_place_that_is_not_withdrawn(tmp_path, monkeypatch):
    monkeypatch.setattr(Grant, "withdrawn", False)
    assert await dispatched_when_granted(tmp_path) == 1
