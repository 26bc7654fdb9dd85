"""A router that started from its file, and the configs that it is sent after that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType

import grpc
import pytest
from prometheus_client import CollectorRegistry
from tenantry.config.v1 import config_discovery_service_pb2 as pb
from tenantry.config.v1 import config_discovery_service_pb2_grpc as rpc

from services.common.artifacts import DirectoryArtifactStore
from services.common.clock import SystemClock
from services.common.rpc.channel import open_channel
from services.router.snapshot import config_client
from services.router.snapshot.compiler import compile_snapshot
from services.router.snapshot.config_client import ConfigClient
from services.router.snapshot.config_metrics import ConfigMetrics
from services.router.snapshot.config_state import ConfigState
from services.router.snapshot.outcomes import OutcomeCounts
from services.router.text.text_model import TextModelLoader
from tests.fakes.mutants import without
from tests.fakes.router_config import ConfigWorld, ScriptedConfigService
from tests.fakes.tiny_text import CHAT_TEMPLATE, tiny_tokeniser_json

HELD_REVISION = 50


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 - looks at plain state of several objects
            await asyncio.sleep(0.01)


class Started:
    """A router at `HELD_REVISION` from its file, and a config service that has sent one message so far."""

    def __init__(self, folder: Path, module: ModuleType) -> None:
        artifacts = DirectoryArtifactStore(folder / "artifacts")
        self.world = ConfigWorld(
            artifacts, artifacts.put(tiny_tokeniser_json()), artifacts.put(CHAT_TEMPLATE.encode())
        )
        self.world.base_model()
        self.world.pool(["a:1"])
        self.world.key(self.world.tenant("acme", 7), "key-1", revoked=True)
        self.service = ScriptedConfigService(heartbeat_seconds=0.02)
        self.state = ConfigState(SystemClock())
        self.held: list[int] = []
        self.target = f"unix:{folder}/config.sock"
        self._loader = TextModelLoader(artifacts)
        self._module = module

    def client(self, channel: grpc.aio.Channel) -> ConfigClient:
        client: ConfigClient = self._module.ConfigClient(
            channel,
            router="router-1",
            state=self.state,
            load_text_model=self._loader.load,
            on_snapshot=lambda snapshot: None,
            on_held=lambda revision, resources: self.held.append(revision),
            outcomes=OutcomeCounts(),
            metrics=ConfigMetrics(CollectorRegistry()),
        )
        client.start_from(
            self.world.resources, compile_snapshot(HELD_REVISION, self.world.resources, self._loader.load)
        )
        return client

    async def send(self, revision: int) -> None:
        chunk = pb.SnapshotChunk(
            nonce=f"n{revision}",
            revision=revision,
            kind=pb.SNAPSHOT_KIND_FULL,
            last=True,
            resources=list(self.world.resources.values()),
        )
        await self.service.send([chunk])

    async def hears(self, *, etcd: bool) -> None:
        """Send a heartbeat that says whether the config service follows etcd."""
        self.service.etcd_connected = etcd
        reports = self.service.reports
        await until(lambda: self.service.reports > reports + 1)


@asynccontextmanager
async def started(folder: Path, module: ModuleType = config_client):
    made = Started(folder, module)
    server = grpc.aio.server()
    rpc.add_ConfigDiscoveryServiceServicer_to_server(made.service, server)
    server.add_insecure_port(made.target)
    await server.start()
    async with open_channel(made.target) as channel:
        running = asyncio.create_task(made.client(channel).run())
        try:
            yield made
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await server.stop(0)


async def test_it_says_what_it_holds_and_stays_stale_until_a_snapshot_of_etcd(tmp_path):
    async with started(tmp_path) as router:
        await router.hears(etcd=True)
        assert router.service.hellos[0].revision == HELD_REVISION
        assert router.state.stale
        await router.send(HELD_REVISION)
        await until(lambda: router.service.acks)
        assert not router.state.stale
        assert router.held == [HELD_REVISION]


async def test_an_older_file_of_the_config_service_does_not_undo_a_revocation(tmp_path):
    async with started(tmp_path) as router:
        await router.hears(etcd=False)
        await router.send(HELD_REVISION - 1)
        await until(lambda: router.service.nacks)
        assert "older than what is in force" in router.service.nacks[0].reasons[0]
        assert (router.state.revision, router.held) == (HELD_REVISION, [])
        await router.hears(etcd=True)
        await router.send(HELD_REVISION + 1)
        await until(lambda: router.state.revision == HELD_REVISION + 1)
        assert not router.state.stale


async def test_mutant_that_takes_whatever_comes_goes_back_to_the_older_file(tmp_path):
    broken = without(config_client, "older-and-stale")
    async with started(tmp_path, broken) as router:
        await router.hears(etcd=False)
        await router.send(HELD_REVISION - 1)
        await until(lambda: router.state.revision == HELD_REVISION - 1)


@pytest.mark.parametrize("revision", [HELD_REVISION, HELD_REVISION + 1])
async def test_a_config_services_file_that_is_no_older_is_taken_and_stale_all_the_same(tmp_path, revision):
    async with started(tmp_path) as router:
        await router.hears(etcd=False)
        await router.send(revision)
        await until(lambda: router.service.acks)
        assert (router.state.revision, router.state.stale) == (revision, True)


async def test_an_etcd_that_was_set_back_is_followed(tmp_path):
    async with started(tmp_path) as router:
        await router.hears(etcd=True)
        await router.send(HELD_REVISION - 40)
        await until(lambda: router.state.revision == HELD_REVISION - 40)
        assert not router.state.stale
