"""The parts of a config service that write and read its last known good file."""

from __future__ import annotations

import itertools
from pathlib import Path

from prometheus_client import CollectorRegistry
from tenantry.config.v1 import pool_pb2

from services.common.known_good.signed_state import StatementSigner
from services.config.discovery.registry import RouterRegistry
from services.config.discovery.start_gate import StartGate
from services.config.etcd import keys as etcd_keys
from services.config.etcd.follower import KeyChange
from services.config.etcd.store import Stored
from services.config.recovery import last_known_good
from services.config.recovery.etcd_identity import EtcdIdentity
from services.config.state import current_state
from services.config.state.config_state import ConfigStateBuilder
from services.config.state.sealing import TenantKeys
from tests.fakes.manual_clock import ManualClock

KEYS = TenantKeys(b"r" * 32)
SIGNER = StatementSigner(KEYS.statement_seed)
CLUSTER = 0xCDF818194E3A8C32
DAY_SECONDS = 86_400.0


class Process:
    """One run of those parts over a state directory."""

    def __init__(
        self,
        folder: Path,
        clock: ManualClock,
        *,
        key: bytes = KEYS.known_good_key,
        signer: StatementSigner = SIGNER,
        **modules,
    ) -> None:
        self.clock, self.cluster, self.registry = clock, CLUSTER, CollectorRegistry()
        self.etcd_answers = itertools.repeat(0)
        self.routers = RouterRegistry(clock, expiry_seconds=60.0)
        states = modules.get("current_state", current_state)
        self.current = states.CurrentState(ConfigStateBuilder(KEYS), clock)
        self.identity = EtcdIdentity(lambda: self.cluster, folder, self.registry)
        self.known_good = modules.get("last_known_good", last_known_good).LastKnownGood(
            self.current,
            self.identity,
            lambda: next(self.etcd_answers),
            state_dir=folder,
            key=key,
            signer=signer,
            start_gate=StartGate(self.routers),
            max_age_seconds=DAY_SECONDS,
            clock=clock,
            registry=self.registry,
        )
        self._followers = (self.identity, self.current, self.known_good)

    def etcd_lists(self, items: dict[str, Stored], revision: int) -> None:
        for follower in self._followers:
            follower.replace(items, revision)
        self.current.heard()

    def etcd_changes(self, changes: list[KeyChange], revision: int) -> None:
        for follower in self._followers:
            follower.apply(changes, revision)

    async def starts(self):
        await self.known_good.start_without_etcd()
        return self

    async def stops(self) -> None:
        await self.known_good.finish(5)

    def alarms(self, how: str) -> float | None:
        return self.registry.get_sample_value("tenantry_config_etcd_replaced_total", {"how": how})

    def model_of(self, pool: str) -> str:
        record = self.current.state.pool(f"pools/{pool}")
        assert record is not None
        return str(record.pool.server_model)


def pools(revision: int, **models: str) -> dict[str, Stored]:
    return {
        etcd_keys.pool_key(name): Stored(pool_pb2.Pool(server_model=model).SerializeToString(), revision)
        for name, model in models.items()
    }
