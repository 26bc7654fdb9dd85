"""What a watch lives through: connections cut at random bytes, and an etcd that is killed under a writer."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from services.config.etcd.client import EtcdClient
from services.config.etcd.store import StoreUnavailableError
from tests.fakes.cutting_proxy import CuttingProxy
from tests.fakes.etcd_process import EtcdProcess
from tests.fakes.watch_recorder import WatchRecorder, following

_KEYS = 40
_WRITERS = 30
_FIRST_CONNECTION_BYTES = 8_000


@dataclass(frozen=True, slots=True)
class Replay:
    """How one follower is treated."""

    seed: int
    events: int
    """Two of each revision."""
    cuts: int
    cut_bytes: tuple[int, int] = (200, 12_000)
    """A connection is cut after at least, and before, so many bytes."""
    after_the_fact: bool = False
    """Whether the follower is kept away until everything is written, and has it replayed."""
    reaches_seconds: float = 20.0


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of it."""

    recorder: WatchRecorder
    written: list[tuple[str, int]]
    cuts: int

    @property
    def missing(self) -> int:
        return len(set(self.written) - set(self.recorder.changes))

    @property
    def twice(self) -> int:
        return len(self.recorder.changes) - len(set(self.recorder.changes))

    @property
    def ordered(self) -> bool:
        revisions = [revision for _, revision in self.recorder.changes]
        return revisions == sorted(revisions)

    @property
    def whole(self) -> bool:
        """Whether no revision came in two pieces."""
        return all(count == 2 for batch in self.recorder.batches for count in batch.values())


async def replay_over_cuts(
    etcd: EtcdProcess, writer: EtcdClient, module: ModuleType, replay: Replay
) -> Replayed:
    """Follow writes while connections are cut at random bytes."""
    rng, prefix, cuts_left = random.Random(replay.seed), f"/run{replay.seed}/", replay.cuts
    connections, away = 0, replay.after_the_fact

    def budget() -> int | None:
        nonlocal cuts_left, connections
        connections += 1
        if away:
            return _FIRST_CONNECTION_BYTES if connections == 1 else 1
        cuts_left -= 1
        return rng.randrange(*replay.cut_bytes) if cuts_left >= 0 else None

    async with (
        CuttingProxy(etcd.target, budget) as proxy,
        following(module, proxy.target, prefix) as recorder,
    ):
        written: list[tuple[str, int]] = []

        async def write(number: int) -> None:
            key = f"{prefix}{number % _KEYS}"
            revision = await writer.write([], {key: b"x" * 50, f"{key}/twin": b"y"})
            assert revision is not None
            written.extend([(key, revision), (f"{key}/twin", revision)])

        # Nobody is there to see how what is replayed later came to be.
        at_once = _WRITERS if replay.after_the_fact else 1
        for first in range(0, replay.events // 2, at_once):
            await asyncio.gather(*map(write, range(first, min(first + at_once, replay.events // 2))))
        written.sort(key=lambda change: change[1])
        last = written[-1][1]
        cuts_before = proxy.cuts if away else 0
        away = False
        with contextlib.suppress(TimeoutError):
            await recorder.reaches(last, replay.reaches_seconds)
        return Replayed(recorder, written, proxy.cuts - cuts_before)


@dataclass(frozen=True, slots=True)
class Survived:
    """A follower's state against etcd's, after kills."""

    ours: dict[str, int]
    theirs: dict[str, int]
    acknowledged: int
    lost_by_etcd: frozenset[str]
    """Acknowledged, and not there any more: etcd's own doing."""
    recovery_seconds: list[float]
    """Of each kill: from etcd being ready until the follower has a write made after that."""


async def live_through_kills(
    etcd: EtcdProcess,
    module: ModuleType,
    kills: int,
    *,
    seed: int = 0,
    tell: Callable[[int, float], None] = lambda _kill, _seconds: None,
) -> Survived:
    """A writer that never rests, while etcd is killed at random moments."""
    rng, prefix = random.Random(seed), "/live/"
    acknowledged: list[str] = []
    recovery_seconds: list[float] = []
    progress = asyncio.Event()
    channel = etcd.channel()
    client = EtcdClient(channel)

    async def write_on() -> None:
        number = 0
        while True:
            number += 1
            try:
                await client.write([], {f"{prefix}{number}": b"v"})
            except StoreUnavailableError:
                await asyncio.sleep(0.01)
            else:
                acknowledged.append(f"{prefix}{number}")
                progress.set()

    async with following(module, etcd.target, prefix, 1.0) as recorder:
        writing = asyncio.create_task(write_on())
        for kill in range(kills):
            target = len(acknowledged) + rng.randrange(5, 60)
            while len(acknowledged) < target:
                progress.clear()
                await progress.wait()
            await etcd.kill()
            await etcd.start()
            ready = time.monotonic()
            after = await client.write([], {f"{prefix}ready": b"v"})
            assert after is not None
            await recorder.reaches(after)
            recovery_seconds.append(time.monotonic() - ready)
            tell(kill + 1, recovery_seconds[-1])
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        end = await client.write([], {f"{prefix}end": b"v"})
        assert end is not None
        await recorder.reaches(end)
        listed, _ = await client.list(prefix)
    await channel.close()
    theirs = {key: stored.mod_revision for key, stored in listed.items()}
    lost = frozenset(acknowledged) - theirs.keys()
    return Survived(recorder.state, theirs, len(acknowledged), lost, recovery_seconds)
