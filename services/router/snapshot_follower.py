"""Follows each snapshot that comes into force: pools, limits, metrics, channels, readiness."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NoReturn

from services.common.rpc.health import HealthBoard
from services.router.backends.channels import EndpointChannels
from services.router.limits.limited import key_of, tenant_of
from services.router.metrics import RequestMetrics
from services.router.pool.directory import PoolDirectory
from services.router.snapshot.config_metrics import ConfigMetrics
from services.router.snapshot.model import Snapshot

_log = logging.getLogger(__name__)


class SnapshotFollower:
    """Brings everything that outlives a snapshot in line with the newest one."""

    def __init__(
        self,
        pools: PoolDirectory,
        forget: Sequence[Callable[[Callable[[str], bool]], object]],
        metrics: RequestMetrics,
        config_metrics: ConfigMetrics,
        channels: EndpointChannels,
        health: HealthBoard,
        component: str,
    ) -> None:
        self._pools = pools
        self._forget = forget
        """Each takes whether a tenant or key is known, and forgets the usage of others."""
        self._metrics = metrics
        self._config_metrics = config_metrics
        self._channels = channels
        self._health = health
        self._component = component
        self.then: Callable[[Snapshot], object] = lambda _: None
        """Called once everything else follows a snapshot."""
        self._unusable_models: Mapping[str, str] = {}
        self._followed = asyncio.Event()

    def follow(self, snapshot: Snapshot) -> None:
        """Follow at once in everything that requests meet; `run` does the rest."""
        self._pools.configure(snapshot)
        for forget in self._forget:
            forget(partial(_is_known, snapshot))
        self._metrics.keep_only(snapshot.tenants)
        self._config_metrics.models_unusable(len(snapshot.unusable_models))
        for name, problem in snapshot.unusable_models.items():
            if self._unusable_models.get(name) != problem:
                _log.error("%s cannot be used, requests for it are refused: %s", name, problem)
        self._unusable_models = snapshot.unusable_models
        self.then(snapshot)
        self._followed.set()

    async def run(self) -> NoReturn:
        """Publish readiness and close channels of endpoints that are gone, for as long as the process lives."""
        while True:
            await self._followed.wait()
            self._followed.clear()
            await self._health.set(self._component, ready=True)
            self._channels.keep_only(self._pools.targets)


def _is_known(snapshot: Snapshot, subject: str) -> bool:
    """Whether a tenant, or a tenant's key, is there."""
    key_id = key_of(subject)
    return tenant_of(subject) in snapshot.tenants and (not key_id or key_id in snapshot.keys)
