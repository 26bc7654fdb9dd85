"""The watch against a real etcd: nothing missing, nothing twice, over cut connections, kill -9 and compaction."""

from __future__ import annotations

import asyncio
import random

import pytest

from services.common.grpc_channel import open_channel
from services.config.etcd import watch as watch_module
from services.config.etcd.client import EtcdClient
from services.config.etcd.watch import EtcdWatch
from services.config.etcd.watch_state import WatchState
from services.config.store import Expect
from tests.fakes.cutting_proxy import CuttingProxy
from tests.fakes.etcd_process import EtcdProcess

pytestmark = pytest.mark.integration
PREFIX = "/t/"


class Recorder:
    """Keeps every change in the order it came."""

    def __init__(self) -> None:
        self.state: dict[str, int] = {}
        self.changes: list[tuple[str, int]] = []
        self.lists = 0
        self.revision = 0
        self.moved = asyncio.Event()

    def replace(self, items, revision):
        self.lists += 1
        self.state = {key: stored.mod_revision for key, stored in items.items()}
        self.revision = revision
        self.moved.set()

    def apply(self, changes, revision):
        for change in changes:
            self.changes.append((change.key, change.mod_revision))
            if change.stored is None:
                self.state.pop(change.key, None)
            else:
                self.state[change.key] = change.stored.mod_revision
        self.revision = revision
        self.moved.set()

    def heard(self):
        pass

    def lost(self):
        pass

    async def reaches(self, revision):
        async with asyncio.timeout(30):
            while self.revision < revision:
                self.moved.clear()
                await self.moved.wait()


async def replay_over_cuts(folder, events, seed):
    """Follow a replay of events while connections are cut at random bytes; returns what came and what was written."""
    rng = random.Random(seed)
    async with EtcdProcess(folder) as etcd:
        writer_channel = etcd.channel()
        writer = EtcdClient(writer_channel)
        cuts_left = 8

        def budget():
            nonlocal cuts_left
            cuts_left -= 1
            return rng.randrange(200, 20_000) if cuts_left >= 0 else None

        async with CuttingProxy(etcd.target, budget) as proxy:
            channel = open_channel(proxy.target)
            recorder = Recorder()
            task = asyncio.create_task(EtcdWatch(channel, EtcdClient(channel), PREFIX, recorder).run())
            written, last = [], 0
            try:
                async with asyncio.timeout(30):
                    while recorder.lists == 0:
                        recorder.moved.clear()
                        await recorder.moved.wait()
                for number in range(events):
                    key = f"{PREFIX}{number % 40}"
                    last = await writer.write([], {key: b"x" * 50, key + "/twin": b"y"})
                    written += [(key, last), (key + "/twin", last)]
                await recorder.reaches(last)
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await channel.close()
                await writer_channel.close()
            return recorder, written, proxy.cuts


async def test_cut_connections_lose_and_repeat_nothing(tmp_path):
    recorder, written, cuts = await replay_over_cuts(tmp_path, 300, seed=7)
    assert cuts >= 3
    assert recorder.lists == 1
    assert recorder.changes == written


async def test_mutant_resuming_from_the_header_loses_events(tmp_path, monkeypatch):
    """What a published client does: advance on every header, even of `created`."""

    def careless(self, response):
        verdict = original(self, response)
        self.next_revision = max(self.next_revision, response.revision + 1)
        return verdict

    original = WatchState.take
    monkeypatch.setattr(watch_module.WatchState, "take", careless)
    monkeypatch.setattr(Recorder, "reaches", lambda self, revision: asyncio.sleep(0.5))
    recorder, written, cuts = await replay_over_cuts(tmp_path, 300, seed=7)
    assert cuts >= 3
    assert recorder.changes != written


async def test_kill_and_compaction_end_in_etcds_own_state(tmp_path):
    async with EtcdProcess(tmp_path) as etcd:
        channel = etcd.channel()
        client, recorder = EtcdClient(channel), Recorder()
        task = asyncio.create_task(EtcdWatch(channel, client, PREFIX, recorder, 0.5).run())
        try:
            for round_number in range(3):
                last = await client.write([], {f"{PREFIX}{round_number}": b"1", f"{PREFIX}gone": b"1"})
                await recorder.reaches(last)
                await etcd.kill()
                await etcd.start()
                last = await client.write([], {f"{PREFIX}after": b"%d" % round_number}, [f"{PREFIX}gone"])
                await recorder.reaches(last)
            listed, _ = await client.list(PREFIX)
            assert recorder.state == {key: stored.mod_revision for key, stored in listed.items()}
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await channel.close()


async def test_a_transaction_writes_all_or_nothing(tmp_path):
    async with EtcdProcess(tmp_path) as etcd:
        channel = etcd.channel()
        client = EtcdClient(channel)

        first = await client.write([Expect("/a", 0)], {"/a": b"1", "/b": b"1"})
        assert await client.write([Expect("/a", 0)], {"/a": b"2", "/b": b"2"}) is None
        assert (await client.get("/b")).value == b"1"
        assert await client.write([Expect("/a", first)], {}, ["/b"]) == first + 1
        assert await client.get("/b") is None
        for number in range(0, 1200, 100):
            await client.write([], {f"/many/{number + n:05d}": b"v" for n in range(100)})
        listed, revision = await client.list("/many/")
        assert len(listed) == 1200
        assert revision >= first + 13
        await channel.close()
