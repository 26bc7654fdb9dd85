"""Routers' keys in etcd: what they hold, how often they are written, and that a failure costs little."""

from __future__ import annotations

import logging
import sys

import pytest
from tenantry.config.v1 import stored_pb2

from services.common.errors import InternalError
from services.config.discovery import registry as registry_module
from services.config.discovery.registry import RouterRegistry
from services.config.discovery.status_keeper import STATUS_PREFIX, RouterStatusKeeper
from services.config.etcd import keys as etcd_keys
from services.config.etcd.lease import LeaseOverError
from services.config.etcd.store import StoreUnavailableError
from tests.fakes.manual_clock import ManualClock
from tests.fakes.memory_config_store import MemoryConfigStore
from tests.fakes.mutants import without

EXPIRY_SECONDS = 60.0
CONTENT = object()


class MemoryLeases:
    """Leases over the store in memory; `expire` ends those whose time is up."""

    def __init__(self, store: MemoryConfigStore, clock: ManualClock) -> None:
        self.store, self.clock = store, clock
        self.ends: dict[int, float] = {}
        self.keys: dict[str, int] = {}
        self.writes: list[tuple[int, list[str], list[str]]] = []
        self.fails: Exception | None = None

    async def grant(self, lifetime_seconds: int) -> int:
        if self.fails:
            raise self.fails
        lease = len(self.ends) + 1
        self.ends[lease] = self.clock.monotonic_seconds() + lifetime_seconds
        return lease

    async def write(self, lease, puts, deletes=()) -> None:
        if self.fails:
            raise self.fails
        if puts and self.ends.get(lease, 0.0) < self.clock.monotonic_seconds():
            raise LeaseOverError
        self.writes.append((lease, sorted(puts), sorted(deletes)))
        self.keys.update(dict.fromkeys(puts, lease))
        self.store.put(puts, deletes)

    def expire(self) -> None:
        now = self.clock.monotonic_seconds()
        gone = [key for key, lease in self.keys.items() if self.ends.get(lease, 0.0) < now]
        for key in gone:
            del self.keys[key]
        self.store.put({}, gone)


class World:
    def __init__(self) -> None:
        self.clock, self.store = ManualClock(), MemoryConfigStore()
        self.leases = MemoryLeases(self.store, self.clock)
        self.restart()

    def restart(self) -> None:
        self.registry = RouterRegistry(self.clock, EXPIRY_SECONDS)
        self.registry.newest(5, CONTENT)
        self.keeper = RouterStatusKeeper(self.registry, self.store, self.leases, self.clock, EXPIRY_SECONDS)

    async def pass_seconds(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.advance(1.0)
            self.leases.expire()
            await self.keeper.step()

    async def remembered(self) -> dict[str, stored_pb2.StoredRouter]:
        found, _ = await self.store.list(STATUS_PREFIX)
        return {
            key.removeprefix(STATUS_PREFIX): stored_pb2.StoredRouter.FromString(stored.value)
            for key, stored in found.items()
        }

    def names(self) -> list[str]:
        return [router.name for router in self.registry.routers()]


@pytest.fixture
def world():
    return World()


async def test_a_restarted_service_misses_the_router_that_does_not_come_back(world):
    session = world.registry.connect("r1")
    world.registry.connect("r2")
    world.registry.applied(session, 5, CONTENT)
    await world.pass_seconds(30)
    world.restart()
    assert not world.keeper.recalled.is_set()
    await world.keeper.step()
    assert world.keeper.recalled.is_set()
    world.registry.connect("r2")
    assert world.names() == ["r1", "r2"]
    (missing,) = [router for router in world.registry.routers() if router.name == "r1"]
    assert missing.applied_revision == 5
    assert world.clock.wall_seconds() - missing.heard_wall_seconds == 30.0
    await world.pass_seconds(62)
    assert world.names() == ["r2"]
    assert list(await world.remembered()) == ["r2"]


async def leave_before_the_recall(world):
    world.registry.connect("r1")
    world.registry.connect("r2")
    await world.pass_seconds(1)
    world.restart()
    world.store.down = True
    await world.keeper.step()
    world.registry.leave(world.registry.connect("r1"))
    world.registry.leave(world.registry.connect("r2"))
    world.registry.connect("r2")
    world.store.down = False
    await world.keeper.step()


async def test_a_goodbye_before_etcd_answered_is_not_undone_by_what_etcd_remembers(world):
    await leave_before_the_recall(world)
    assert world.names() == ["r2"]
    assert list(await world.remembered()) == ["r2"]
    assert world.registry._left is None


async def test_that_test_fails_where_goodbyes_are_not_remembered(world, monkeypatch):
    forgetful = without(registry_module, "a-goodbye-is-not-undone")
    monkeypatch.setattr(sys.modules[__name__], "RouterRegistry", forgetful.RouterRegistry)
    await leave_before_the_recall(world)
    assert world.names() == ["r1", "r2"]


def test_the_goodbyes_remembered_are_bounded(monkeypatch):
    monkeypatch.setattr(registry_module, "MAX_ROUTERS", 3)
    registry = RouterRegistry(ManualClock(), EXPIRY_SECONDS)
    for number in range(10):
        registry.leave(registry.connect(f"r{number}"))
    assert list(registry._left) == ["r7", "r8", "r9"]


async def test_a_router_is_remembered_for_its_expiry_and_not_much_longer(world):
    session = world.registry.connect("r1")
    await world.pass_seconds(19)
    world.registry.heard(session)
    world.registry.disconnect(session)
    for _ in range(int(EXPIRY_SECONDS)):
        world.clock.advance(1.0)
        world.leases.expire()
        assert list(await world.remembered()) == ["r1"]  # no config service has to run to keep it
    world.clock.advance(EXPIRY_SECONDS / 3 + 2)
    world.leases.expire()
    assert await world.remembered() == {}


async def test_a_router_that_stopped_before_the_service_is_not_recalled(world):
    session = world.registry.connect("r1")
    world.registry.connect("r2")
    await world.pass_seconds(1)
    world.registry.leave(session)
    await world.keeper.finish(1.0)
    assert list(await world.remembered()) == ["r2"]
    world.restart()
    await world.keeper.step()
    assert world.names() == ["r2"]


async def test_signs_of_life_and_revisions_alone_are_not_written(world):
    session = world.registry.connect("r1")
    await world.keeper.step()
    for revision in range(6, 24):
        world.registry.heard(session)
        world.registry.newest(revision, CONTENT)
        await world.pass_seconds(1)
    assert len(world.leases.writes) == 1
    world.registry.applied(session, 23, CONTENT)
    world.registry.applied(session, 23, CONTENT)
    await world.keeper.step()
    assert len(world.leases.writes) == 2
    assert (await world.remembered())["r1"].applied_revision == 23


async def test_a_key_is_renewed_a_few_times_within_the_expiry_and_says_when_its_router_was_heard(world):
    session = world.registry.connect("r1")
    for _ in range(120):
        world.registry.heard(session)
        await world.pass_seconds(1)
    assert len(world.leases.writes) == 6
    heard = (await world.remembered())["r1"].heard_time.ToSeconds()
    assert world.clock.wall_seconds() - heard <= EXPIRY_SECONDS / 3 + 1


async def test_nothing_is_written_where_it_would_be_watched(world):
    for number in range(250):
        world.registry.connect(f"r{number}")
    await world.keeper.step()
    puts = [key for _, names, _ in world.leases.writes for key in names]
    assert len(puts) == 250
    assert not any(key.startswith(etcd_keys.LIVE) for key in puts)
    assert all(len(names) <= 100 for _, names, _ in world.leases.writes)


@pytest.mark.parametrize(
    "failure", [StoreUnavailableError("away"), InternalError(), RuntimeError("unforeseen")]
)
async def test_without_etcd_memory_goes_on_and_the_log_says_so_once(world, caplog, failure):
    world.store.down, world.leases.fails = True, failure
    world.registry.connect("r1")
    with caplog.at_level(logging.WARNING):
        await world.pass_seconds(5)
        assert world.keeper.recalled.is_set()
        assert world.names() == ["r1"]
        assert len(caplog.records) == 1
        world.store.down, world.leases.fails = False, None
        await world.pass_seconds(1)
        assert list(await world.remembered()) == ["r1"]
        assert len(caplog.records) == 1


async def test_a_lease_that_etcd_lost_is_replaced(world):
    session = world.registry.connect("r1")
    await world.keeper.step()
    world.leases.ends.clear()
    world.registry.applied(session, 5, CONTENT)
    await world.pass_seconds(2)
    assert (await world.remembered())["r1"].applied_revision == 5


async def test_a_value_that_is_no_status_is_passed_over(world):
    world.store.put({STATUS_PREFIX + "odd": b"\xff\xff"})
    world.store.put({STATUS_PREFIX + "r1": stored_pb2.StoredRouter(router="r1").SerializeToString()})
    await world.keeper.step()
    assert world.names() == ["r1"]
