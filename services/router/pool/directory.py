"""Keeps the running pools in line with the config, and owns the probes of their endpoints."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import NoReturn

from services.common.clock import Clock
from services.common.errors import Reason, UnavailableError
from services.common.rpc.targets import canonical
from services.router.pool.endpoints import Servers
from services.router.pool.fair_queue import FairQueue
from services.router.pool.inflight_window import InflightWindow
from services.router.pool.pool import Pool
from services.router.pool.pool_kind import PoolKind
from services.router.pool.probing import Probe, Served, probe_endpoint
from services.router.pool.queue_following import MetricsReader, Watched, follow_queue
from services.router.snapshot.model import PoolConfig, Snapshot

_log = logging.getLogger(__name__)


class PoolDirectory:
    """Pools by name. A change of model, dialect or owner makes another pool of it: the old one is retired."""

    def __init__(self, probe: Probe, clock: Clock, metrics: MetricsReader | None = None) -> None:
        self._probe = probe
        self._metrics = metrics
        self._clock = clock
        self._servers = Servers()
        self._pools: dict[str, tuple[PoolConfig, Pool]] = {}
        self._changed = asyncio.Event()
        self._sharing: dict[Served, set[Pool]] = {}
        """The pools that use an endpoint, and follow its probe."""
        self._found: dict[Served, bool] = {}
        """Whether the newest probe found it ready."""
        self._watching: dict[Watched, dict[Pool, InflightWindow]] = {}
        """The pools that follow a server's queue, each with its window of that server."""

    def configure(self, snapshot: Snapshot) -> None:
        """Follow a snapshot: requests that run on a pool that is gone end there."""
        for name, config in without_foreign_targets(snapshot.pools).items():
            known = self._pools.get(name)
            if known is not None and known[0] == config:
                continue
            if (withheld := len(snapshot.pools[name].targets) - len(config.targets)) > 0:
                _log.error(
                    "%s names %d servers of another tenant's pool: it gets none of them", name, withheld
                )
            if known is not None and PoolKind.of(known[0]) == PoolKind.of(config):
                known[1].configure(config)
                self._pools[name] = (config, known[1])
            else:
                # What tenants were given outlives the pool's servers and model.
                queue = FairQueue()
                if known is not None:
                    # Before it is retired: the floor is that of those that wait.
                    queue = FairQueue(
                        known[1].service, known[1].scheduler.queue.floor
                    )  # proven: floor-outlives-a-pool
                    known[1].retire()
                self._pools[name] = (config, Pool(config, queue, self._servers, self._clock))
        for name in self._pools.keys() - snapshot.pools.keys():
            self._pools.pop(name)[1].retire()
        # At once, so that a pool in place of another serves where the same servers are known to be ready.
        self._share()
        self._watch()
        self._changed.set()

    def pool(self, config: PoolConfig | PoolKind) -> Pool:
        """The running pool.

        Raises:
            UnavailableError: it is gone or was replaced since the snapshot that the request came with.
        """
        pool = self.find(config if isinstance(config, PoolKind) else PoolKind.of(config))
        if pool is None:
            raise UnavailableError("no pool serves this model", reason=Reason.NO_READY_ENDPOINT)
        return pool

    def find(self, kind: PoolKind) -> Pool | None:
        """The running pool of a kind; None if it is gone or was replaced."""
        known = self._pools.get(kind.name)
        return None if known is None or PoolKind.of(known[0]) != kind else known[1]

    def serves(self, kind: PoolKind, target: str) -> bool:
        """Whether requests for a pool may still be sent to a target."""
        pool = self.find(kind)
        return pool is not None and pool.has(target)

    @property
    def pools(self) -> Mapping[str, Pool]:
        """The running pools, by name."""
        # A copy, in one step: scrapes read it on another thread.
        return {name: pool for name, (_, pool) in self._pools.copy().items()}

    @property
    def targets(self) -> frozenset[str]:
        """Every endpoint in use."""
        return frozenset(target for _, pool in self._pools.values() for target in pool.targets)

    async def run(self) -> NoReturn:
        """Probe every endpoint and follow its queue, once for all pools, for as long as the process lives."""
        probes: dict[Served, asyncio.Task[NoReturn]] = {}
        queues: dict[Watched, asyncio.Task[NoReturn]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                self._changed.clear()
                for served in probes.keys() - self._sharing.keys():
                    probes.pop(served).cancel()
                    self._found.pop(served, None)
                for served in self._sharing.keys() - probes.keys():
                    probing = probe_endpoint(self._probe, served, partial(self.probed, served))
                    probes[served] = group.create_task(probing, name="probe endpoint")
                for watched in queues.keys() - self._watching.keys():
                    queues.pop(watched).cancel()
                if self._metrics is not None:
                    for watched in self._watching.keys() - queues.keys():
                        following = follow_queue(self._metrics, watched, partial(self.queue_seen, watched))
                        queues[watched] = group.create_task(following, name="follow queue")
                await self._changed.wait()

    def _share(self) -> None:
        """Follow which pools share an endpoint; a pool that joins takes over the newest finding at once."""
        before, self._sharing = self._sharing, {}
        for config, pool in self._pools.values():
            for target in pool.targets:
                served = Served(target, config.server_model)  # proven: one-probe-a-server
                self._sharing.setdefault(served, set()).add(pool)
                if served in self._found and pool not in before.get(served, ()):
                    pool.probed(target, self._found[served])

    def _watch(self) -> None:
        """Follow which pools have servers whose queue they follow."""
        before, self._watching = self._watching, {}
        for config, pool in self._pools.values():
            urls = dict(config.metrics_urls)
            for target in pool.targets:
                if (url := urls.get(target)) is None:
                    pool.narrow(target, None)
                    continue
                watched = Watched(target, config.server_model, url)
                known = before.get(watched, {}).get(pool) or InflightWindow(config.concurrent_requests)
                known.most = config.concurrent_requests
                self._watching.setdefault(watched, {})[pool] = known

    def queue_seen(self, watched: Watched, waiting: int | None) -> None:
        """Pass how many requests wait inside a server to every pool that follows it."""
        for pool, window in self._watching.get(watched, {}).items():
            size = window.observe(waiting, pool.in_flight_at(watched.target))
            pool.narrow(watched.target, None if size >= window.most else size)

    def probed(self, served: Served, ready: bool) -> None:
        """Pass what a probe found to every pool that uses the endpoint."""
        if served in self._sharing:
            self._found[served] = ready
            for pool in self._sharing[served]:
                pool.probed(served.target, ready)


def without_foreign_targets(pools: Mapping[str, PoolConfig]) -> Mapping[str, PoolConfig]:
    """The pools without the targets that another tenant's dedicated pool names.

    The config service refuses a target that another pool has. A config from before that rule may hold one; then the
    dedicated pool keeps it, the one that has been available longest if there are several.
    """
    owners: dict[str, PoolConfig] = {}
    for config in pools.values():
        if config.dedicated_to_uid is not None:
            for target in config.targets:
                owners.setdefault(canonical(target), config)
    if not owners:
        return pools
    kept = {}
    for name, config in pools.items():
        foreign = {
            target
            for target in config.targets
            if (owner := owners.get(canonical(target))) is not None
            and owner.dedicated_to_uid != config.dedicated_to_uid
        }
        own = tuple(target for target in config.targets if target not in foreign)
        kept[name] = replace(config, targets=own) if foreign else config  # proven: dedicated-targets
    return kept
