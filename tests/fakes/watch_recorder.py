"""A watch's follower that keeps every change in the order it came."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import ModuleType

from services.common.rpc.channel import open_channel
from services.config.etcd.client import EtcdClient
from services.config.etcd.follower import Follower, KeyChange
from services.config.etcd.store import Stored


class WatchRecorder(Follower):
    def __init__(self) -> None:
        self.state: dict[str, int] = {}
        self.changes: list[tuple[str, int]] = []
        self.batches: list[Counter[int]] = []
        """Of each call of `apply`: how many changes of each revision it brought."""
        self.lists = 0
        self.losses = 0
        self.histories_ended = 0
        self.revision = 0
        self._moved = asyncio.Event()

    def replace(self, items: Mapping[str, Stored], revision: int) -> None:
        self.lists += 1
        self.state = {key: stored.mod_revision for key, stored in items.items()}
        self.revision = revision
        self._moved.set()

    def apply(self, changes: Sequence[KeyChange], revision: int) -> None:
        self.batches.append(Counter(change.mod_revision for change in changes))
        for change in changes:
            self.changes.append((change.key, change.mod_revision))
            if change.stored is None:
                self.state.pop(change.key, None)
            else:
                self.state[change.key] = change.stored.mod_revision
        self.revision = revision
        self._moved.set()

    def heard(self) -> None:
        self._moved.set()

    def lost(self) -> None:
        self.losses += 1
        self._moved.set()

    def history_ended(self) -> None:
        self.histories_ended += 1

    async def reaches(self, revision: int, timeout_seconds: float = 20.0) -> None:
        """Wait for a revision; TimeoutError when it does not come."""
        await self._until(lambda: self.revision >= revision, timeout_seconds)

    async def listed(self, times: int = 1) -> None:
        """Wait for a number of lists."""
        await self._until(lambda: self.lists >= times, 20.0)

    async def lost_touch(self, timeout_seconds: float) -> None:
        """Wait until the connection is given up once more."""
        before = self.losses
        await self._until(lambda: self.losses > before, timeout_seconds)

    async def _until(self, condition: Callable[[], bool], timeout_seconds: float) -> None:
        async with asyncio.timeout(timeout_seconds):
            while not condition():
                self._moved.clear()
                await self._moved.wait()


@asynccontextmanager
async def following(
    module: ModuleType, target: str, prefix: str, silence_seconds: float = 2.0
) -> AsyncIterator[WatchRecorder]:
    """Follow a prefix with the watch of a module, `services.config.etcd.watch` or a mutant of it."""
    channel = open_channel(target)
    recorder = WatchRecorder()
    watch = module.EtcdWatch(channel, EtcdClient(channel), prefix, [recorder], silence_seconds)
    task = asyncio.create_task(watch.run())
    try:
        await recorder.listed()
        yield recorder
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await channel.close()
