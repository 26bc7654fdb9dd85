"""What the config service relies on of its store, over the one in memory and over a real etcd."""

from __future__ import annotations

import asyncio

import pytest

from services.config.etcd.client import PAGE_KEYS, EtcdClient
from services.config.etcd.store import MAX_TXN_OPERATIONS, Expect, Stored, StoreUnavailableError, Unchanged
from tests.fakes.etcd_process import EtcdProcess
from tests.fakes.memory_config_store import MemoryConfigStore
from tests.fakes.patience import promised

ETCD = pytest.param("etcd", marks=pytest.mark.integration)


@pytest.fixture(params=["memory", ETCD])
async def store(request, tmp_path):
    if request.param == "memory":
        yield MemoryConfigStore()
        return
    async with EtcdProcess(tmp_path / "etcd") as etcd:
        channel = etcd.channel()
        yield EtcdClient(channel)
        await channel.close()


async def test_reads_show_the_last_write_and_its_revision(store):
    assert await store.get("/a") is None
    first = await store.write([], {"/a": b"1", "/b": b"2"})
    assert await store.get("/a") == Stored(b"1", first)
    second = await store.write([], {"/a": b"3"})
    assert second == first + 1
    listed, revision = await store.list("/")
    assert listed == {"/a": Stored(b"3", second), "/b": Stored(b"2", first)}
    assert revision == second
    assert (await store.list("/a"))[0] == {"/a": Stored(b"3", second)}


async def test_a_write_with_a_broken_condition_writes_nothing(store):
    first = await store.write([Expect("/a", 0)], {"/a": b"1", "/b": b"1"})
    assert await store.write([Expect("/b", first), Expect("/a", 0)], {"/a": b"2", "/c": b"2"}) is None
    assert await store.get("/a") == Stored(b"1", first)
    assert await store.get("/c") is None
    second = await store.write([Expect("/a", first)], {"/d": b"1"}, ["/a"])
    assert second == first + 1
    assert await store.get("/a") is None
    assert await store.write([Expect("/a", 0)], {"/a": b"again"}) == second + 1


async def test_a_prefix_is_unchanged_until_a_key_of_it_is_put(store):
    assert await store.write([Unchanged("/pools/", 0)], {"/x": b"1"}) is not None
    seen = await store.write([], {"/pools/p": b"1"})
    assert await store.write([Unchanged("/pools/", seen)], {"/poolsides": b"1", "/x": b"2"}) is not None
    assert await store.write([Unchanged("/pools/", seen - 1)], {"/x": b"3"}) is None
    await store.write([], {"/pools/q": b"1"})
    assert await store.write([Unchanged("/pools/", seen)], {"/x": b"4"}) is None
    assert (await store.get("/x")).value == b"2"


async def test_of_writers_that_expect_the_same_one_wins(store):
    won = 0
    for _ in range(10):
        before = await store.get("/counter")
        expected = [Expect("/counter", before.mod_revision if before else 0)]
        answers = await asyncio.gather(*(store.write(expected, {"/counter": b"%d" % n}) for n in range(8)))
        won += sum(answer is not None for answer in answers)
    assert won == 10


async def test_lists_are_whole_over_pages_and_writes_are_bounded(store):
    names = [f"/many/{number:05d}" for number in range(2 * PAGE_KEYS + 1)]
    for start in range(0, len(names), MAX_TXN_OPERATIONS):
        await store.write([], dict.fromkeys(names[start : start + MAX_TXN_OPERATIONS], b"v"))
    listed, _ = await store.list("/many/")
    assert list(listed) == names
    with pytest.raises(ValueError, match="operations"):
        await store.write([], dict.fromkeys(names[: MAX_TXN_OPERATIONS + 1], b"v"))


async def test_a_store_that_is_away_says_so_at_once(tmp_path):
    memory = MemoryConfigStore()
    memory.down = True
    etcd = EtcdProcess(tmp_path)
    channel = etcd.channel()
    try:
        for store in (memory, EtcdClient(channel)):
            async with asyncio.timeout(promised(3)):
                for attempt in (store.get("/a"), store.list("/a"), store.write([], {"/a": b""})):
                    with pytest.raises(StoreUnavailableError):
                        await attempt
    finally:
        await channel.close()
