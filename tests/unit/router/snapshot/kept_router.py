"""A router over a state directory, as far as its last known good file is concerned."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from tenantry.config.v1 import config_discovery_service_pb2 as pb
from tenantry.config.v1 import tenant_pb2

from services.common.known_good.signed_state import Statement, StatementSigner
from services.common.known_good.state_digest import digest_of
from services.router.settings import RouterSettings
from services.router.snapshot import last_known_good
from services.router.snapshot.compiler import compile_snapshot
from services.router.snapshot.config_state import ConfigState
from services.router.snapshot.last_known_good import LastKnownGood
from services.router.text.text_model import TextModelLoader
from tests.fakes.manual_clock import ManualClock
from tests.fakes.router_config import ConfigWorld

CANARY = "quokka-canary-prompt"
REFUSE = tenant_pb2.STALENESS_POLICY_REFUSE
DAY_SECONDS = 86_400.0
SIGNER, ANOTHER_SIGNER = StatementSigner(b"s" * 32), StatementSigner(b"t" * 32)


class Router:
    """One run of a router over a state directory, as far as the file is concerned."""

    def __init__(
        self, world: ConfigWorld, folder: Path, clock: ManualClock, name: str = "router-1", **modules: Any
    ) -> None:
        self.clock, self.registry = clock, CollectorRegistry()
        self.state = ConfigState(clock)
        self.loader = TextModelLoader(world.artifacts)
        settings = RouterSettings(
            router=name,
            listen="unix:/l",
            config_target="unix:/c",
            audit_target="unix:/a",
            artifact_dir=folder,
            jwks_path=folder,
            state_dir=folder / "state",
        )
        opening = modules.get("last_known_good", last_known_good).open_last_known_good
        found = opening(settings, self.state, self.loader.load, clock, self.registry)
        assert found is not None
        self.known_good: LastKnownGood = found

    def is_sent(self, revision: int, resources: dict[str, pb.Resource]) -> None:
        self.state.put(compile_snapshot(revision, resources, self.loader.load).snapshot)
        self.state.heard()
        self.is_sent_signed(revision, resources)

    def is_sent_signed(
        self,
        revision: int,
        resources: dict[str, pb.Resource],
        by: StatementSigner = SIGNER,
        cluster: str = "c1",
    ) -> None:
        self.known_good.hold(revision, resources)
        current_ms = int(1000 * self.clock.wall_seconds())
        digest = digest_of(
            (key, resource.SerializeToString(deterministic=True)) for key, resource in resources.items()
        )
        signed = by.sign(Statement(cluster, current_ms, revision, digest))
        self.known_good.attest(
            pb.SnapshotStatement(
                statement=signed.text, signature=signed.signature, signer_public_key=signed.signer
            )
        )

    async def starts(self, at_rest=None):
        if at_rest is None:
            at_rest = asyncio.Event()
            at_rest.set()
        await self.known_good.start_without_config(
            lambda resources, compiled: self.state.put(compiled.snapshot, from_file=True), at_rest
        )
        return self

    async def stops(self) -> None:
        await self.known_good.finish(5)
