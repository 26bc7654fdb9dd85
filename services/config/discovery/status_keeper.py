"""Keeps the list of routers in etcd, so that a restarted config service knows which ones did not come back.

The load is small: the keys are not watched, and a key is written when its router connects or answers, and a few times
within the expiry. A failure loses the memory of routers over a restart, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import NoReturn, Protocol, TypeVar

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from tenantry.config.v1 import stored_pb2

from services.common.clock import Clock
from services.config.discovery.registry import RouterRegistry
from services.config.discovery.router_status import Router
from services.config.etcd import keys as etcd_keys
from services.config.etcd.lease import LeaseOverError
from services.config.etcd.store import ConfigStore

_log = logging.getLogger(__name__)
STATUS_PREFIX = f"{etcd_keys.ROOT}/status/routers/"
WRITE_SECONDS = 1.0
_WRITES_AT_ONCE = 100
T = TypeVar("T")


class Leases(Protocol):
    """Keys that expire; `etcd.lease.EtcdLeases` implements it."""

    async def grant(self, lifetime_seconds: int) -> int:
        """Grant a new lease."""
        ...

    async def write(self, lease: int, puts: Mapping[str, bytes], deletes: Sequence[str] = ()) -> None:
        """Put keys under a lease, and delete others."""
        ...


class RouterStatusKeeper:
    """Recalls the routers that an earlier process knew, then records those of this one.

    One lease serves every key written within a third of the expiry. Then a new lease takes over the routers that are
    still connected; the keys of the others expire with the old lease.
    """

    def __init__(
        self,
        registry: RouterRegistry,
        store: ConfigStore,
        leases: Leases,
        clock: Clock,
        expiry_seconds: float,
    ) -> None:
        self._registry = registry
        self._store = store
        self._leases = leases
        self._clock = clock
        self._renew_seconds = expiry_seconds / 3
        self._lifetime_seconds = math.ceil(expiry_seconds + self._renew_seconds) + 1
        self._lease: int | None = None
        self._granted_at_seconds = 0.0
        self._written: dict[str, int] = {}
        """The routers whose keys may exist in etcd, with the count of changes that was written."""
        self._one_at_a_time = asyncio.Lock()
        self._listed = False
        self._failing = False
        self.recalled = asyncio.Event()
        """Set once etcd was asked for the routers of an earlier process, even if it did not answer."""

    async def run(self) -> NoReturn:
        """Run for as long as the process lives; no failure ends it."""
        while True:
            await self.step()
            await asyncio.sleep(WRITE_SECONDS)

    async def finish(self, within_seconds: float) -> None:
        """Write once more on a clean stop, so that routers that stopped before this service are not recalled."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_seconds):
                await self.step()

    async def step(self) -> None:
        """Run one round; the next one retries what failed."""
        async with self._one_at_a_time:
            await self._step()

    async def _step(self) -> None:
        try:
            if not self._listed:
                await self._recall()
            await self._write()
        except LeaseOverError:
            self._lease = None
        except Exception as error:  # noqa: BLE001 - the delivery of config must not depend on this
            self._lease = None
            if not self._failing:
                _log.warning("routers are kept in memory only: %s", type(error).__name__)
            self._failing = True
        else:
            self._failing = False
        finally:
            self.recalled.set()

    async def _recall(self) -> None:
        found, _ = await self._store.list(STATUS_PREFIX)
        for stored in found.values():
            try:
                status = stored_pb2.StoredRouter.FromString(stored.value)
            except DecodeError:
                continue
            heard = status.heard_time.ToNanoseconds() / 1e9
            self._registry.recall(status.router, status.applied_revision, heard)
            self._written.setdefault(status.router, 0)
        self._registry.recalled()
        self._listed = True

    async def _write(self) -> None:
        connected = self._registry.connected()
        now = self._clock.monotonic_seconds()
        renew = self._lease is None or now - self._granted_at_seconds >= self._renew_seconds
        due = {
            name: router
            for name, router in connected.items()
            if renew or self._written.get(name) != router.changes
        }
        forgotten = [name for name in self._written if not self._registry.knows(name)]
        if due and renew:
            self._lease, self._granted_at_seconds = await self._leases.grant(self._lifetime_seconds), now
        for names in _batches(forgotten):
            await self._leases.write(0, {}, [STATUS_PREFIX + name for name in names])
            for name in names:
                del self._written[name]
        for routers in _batches(list(due.values())):
            changes = {router.name: router.changes for router in routers}
            assert self._lease is not None
            puts = {STATUS_PREFIX + router.name: _stored(router) for router in routers}
            await self._leases.write(self._lease, puts)
            self._written.update(changes)


def _batches(items: list[T]) -> Iterator[list[T]]:
    left = iter(items)
    while batch := list(islice(left, _WRITES_AT_ONCE)):
        yield batch


def _stored(router: Router) -> bytes:
    heard = Timestamp()
    heard.FromNanoseconds(int(router.heard_wall_seconds * 1e9))
    status = stored_pb2.StoredRouter(
        router=router.name, applied_revision=router.applied_revision, heard_time=heard
    )
    return status.SerializeToString()
