from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import asynccontextmanager

import grpc
import pytest
from prometheus_client import CollectorRegistry
from tenantry.config.v1 import config_discovery_service_pb2 as pb
from tenantry.config.v1 import config_discovery_service_pb2_grpc as rpc

from services.common.artifacts import DirectoryArtifactStore
from services.common.clock import SystemClock
from services.common.rpc.channel import open_channel
from services.router.snapshot import config_client
from services.router.snapshot.config_client import ConfigClient
from services.router.snapshot.config_metrics import ConfigMetrics
from services.router.snapshot.config_state import ConfigState
from services.router.snapshot.model import Snapshot
from services.router.snapshot.outcomes import OutcomeCounts
from services.router.text.text_model import TextModelLoader
from tests.fakes.patience import PATIENCE_SECONDS
from tests.fakes.router_config import ConfigWorld, ScriptedConfigService
from tests.fakes.tiny_text import CHAT_TEMPLATE, tiny_tokeniser_json


async def until(true: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 - looks at plain state of several objects
            await asyncio.sleep(0.01)


class Followed:
    """A config service, a client that follows it, and what the client did."""

    def __init__(self, folder) -> None:
        artifacts = DirectoryArtifactStore(folder / "artifacts")
        self.target = f"unix:{folder}/config.sock"
        self.world = ConfigWorld(
            artifacts, artifacts.put(tiny_tokeniser_json()), artifacts.put(CHAT_TEMPLATE.encode())
        )
        self.world.base_model()
        self.world.pool(["a:1"])
        self.world.tenant("acme", 7)
        self.service = ScriptedConfigService(heartbeat_seconds=0.05)
        self.state = ConfigState(SystemClock())
        self.outcomes = OutcomeCounts()
        self.applied: list[Snapshot] = []
        self.loader = TextModelLoader(artifacts)

    async def start(self) -> grpc.aio.Server:
        server = grpc.aio.server()
        rpc.add_ConfigDiscoveryServiceServicer_to_server(self.service, server)
        server.add_insecure_port(self.target)
        await server.start()
        return server

    def client(self, channel: grpc.aio.Channel) -> ConfigClient:
        return ConfigClient(
            channel,
            router="router-9",
            state=self.state,
            load_text_model=self.loader.load,
            on_snapshot=self.applied.append,
            outcomes=self.outcomes,
            metrics=ConfigMetrics(CollectorRegistry()),
        )


@asynccontextmanager
async def following(folder):
    followed = Followed(folder)
    server = await followed.start()
    async with open_channel(followed.target) as channel:
        followed.at_rest = (client := followed.client(channel)).at_rest
        running = asyncio.create_task(client.run())
        try:
            yield followed, server
            assert not running.done()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await server.stop(0)


@pytest.fixture
async def followed(tmp_path):
    async with following(tmp_path) as (made, _):
        yield made


async def test_a_snapshot_in_pieces_is_applied_and_acknowledged(followed):
    revision = await followed.service.push(followed.world.resources, pieces=3)
    await until(lambda: followed.service.acks)
    assert followed.service.hellos[0].router == "router-9"
    assert followed.service.acks[0].revision == revision == followed.state.revision
    assert list(followed.applied[0].tenants) == ["uid-acme"]


async def test_an_update_is_in_force_within_a_second(followed):
    await followed.service.push(followed.world.resources)
    await until(lambda: followed.state.revision == 1)
    followed.world.tenant("acme", 7, version=2)
    await followed.service.push(followed.world.resources)
    await until(lambda: followed.state.revision == 2, seconds=1.0)
    assert followed.state.snapshot().tenants["uid-acme"].config_version == 2


async def test_a_bad_snapshot_is_refused_with_reasons_and_the_old_one_stays(followed):
    await followed.service.push(followed.world.resources)
    await until(lambda: followed.state.revision == 1)
    followed.world.tenant("second", 7)
    await followed.service.push(followed.world.resources)
    await until(lambda: followed.service.nacks)
    assert "uid-second" in followed.service.nacks[0].reasons[0]
    assert followed.state.revision == 1
    followed.world.tenant("second", 8)
    await followed.service.push(followed.world.resources)
    await until(lambda: followed.state.revision == 3)


async def test_a_snapshot_that_nobody_foresaw_is_refused_and_following_goes_on(followed, monkeypatch):
    def compiling(*_):
        raise RecursionError("/secret/template.j2")

    with monkeypatch.context() as patched:
        patched.setattr(config_client, "compile_snapshot", compiling)
        await followed.service.push(followed.world.resources)
        await until(lambda: followed.service.nacks)
    assert "secret" not in followed.service.nacks[0].reasons[0]
    await followed.service.push(followed.world.resources)
    await until(lambda: followed.state.revision == 2)


async def test_pieces_that_make_no_whole_are_refused(followed):
    await followed.service.send([pb.SnapshotChunk(nonce="n", revision=4, chunk=1, last=True)])
    await until(lambda: followed.service.nacks)
    assert followed.service.nacks[0].nonce == "n"
    assert followed.at_rest.is_set()
    with pytest.raises(Exception, match="no config yet"):
        followed.state.snapshot()


async def test_a_delta_builds_on_what_is_held(followed):
    await followed.service.push(followed.world.resources)
    await until(lambda: followed.state.revision == 1)
    delta = {"nonce": "d", "revision": 9, "kind": pb.SNAPSHOT_KIND_DELTA, "last": True}
    await followed.service.send([pb.SnapshotChunk(**delta, base_revision=5)])
    await until(lambda: followed.service.nacks)
    await followed.service.send([pb.SnapshotChunk(**delta, base_revision=1, removed=["tenants/uid-acme"])])
    await until(lambda: followed.state.revision == 9)
    assert followed.state.snapshot().tenants == {}


async def answered_of_20_heartbeats(followed: Followed) -> int:
    reports, beats = followed.service.reports, followed.service.heartbeats
    await until(lambda: followed.service.heartbeats >= beats + 20)
    return followed.service.reports - reports


async def test_a_heartbeat_is_answered_and_not_those_that_come_soon_after(followed, monkeypatch):
    await until(lambda: followed.service.reports)
    monkeypatch.setattr(config_client, "_REPORT_SECONDS", 0.0)
    assert await answered_of_20_heartbeats(followed) > 10
    monkeypatch.setattr(config_client, "_REPORT_SECONDS", 60.0)
    assert await answered_of_20_heartbeats(followed) <= 2


async def test_outcomes_flow_back(followed):
    for outcome in ("ok", "ok", "RATE_LIMITED"):
        followed.outcomes.count("uid-acme", 3, outcome)
    await until(lambda: len(followed.service.outcomes) == 2)
    counts = {count.outcome: count.requests for count in followed.service.outcomes}
    assert counts == {"ok": 2, "RATE_LIMITED": 1}


async def test_silence_makes_stale_and_a_heartbeat_fresh_again(followed, monkeypatch):
    monkeypatch.setattr("services.router.snapshot.config_state.STALE_AFTER_SECONDS", 0.3)
    await until(lambda: not followed.state.stale)
    followed.service.silent = True
    await until(lambda: followed.state.stale)
    followed.service.silent = False
    await until(lambda: not followed.state.stale)


async def test_a_silent_stream_is_opened_again(tmp_path, monkeypatch):
    # Before the client starts to listen: a wait that has begun keeps the length it began with.
    monkeypatch.setattr(config_client, "_SILENCE_SECONDS", 0.2)
    async with following(tmp_path) as (followed, _):
        await until(lambda: followed.service.hellos)
        followed.service.silent = True
        await until(lambda: len(followed.service.hellos) >= 2)


async def test_a_service_that_comes_back_is_followed_again_with_the_revision_held(tmp_path):
    async with following(tmp_path) as (followed, server):
        await followed.service.push(followed.world.resources)
        await until(lambda: followed.state.revision == 1)
        await server.stop(0)
        again = await followed.start()
        await until(lambda: len(followed.service.hellos) >= 2)
        assert followed.service.hellos[-1].revision == 1
        await again.stop(0)


async def test_it_stops_even_while_its_stream_breaks(tmp_path, monkeypatch):
    async def broken(client, *given):
        running.cancel()
        raise config_client._SilentError

    followed = Followed(tmp_path)
    monkeypatch.setattr(ConfigClient, "_read", broken)
    server = await followed.start()
    async with open_channel(followed.target) as channel:
        running = asyncio.create_task(followed.client(channel).run())
        await asyncio.wait([running], timeout=PATIENCE_SECONDS)
        assert running.cancelled()
    await server.stop(0)


async def test_a_snapshot_is_on_its_way_from_its_first_piece_until_it_is_in_force(followed, monkeypatch):
    assert followed.at_rest.is_set()
    compiling, may_end = threading.Event(), threading.Event()
    real = config_client.compile_snapshot

    def slow(*arguments):
        compiling.set()
        assert may_end.wait(10)
        return real(*arguments)

    monkeypatch.setattr(config_client, "compile_snapshot", slow)
    await followed.service.push(followed.world.resources, pieces=3)
    await until(compiling.is_set)
    assert not followed.at_rest.is_set()
    may_end.set()
    await asyncio.wait_for(followed.at_rest.wait(), PATIENCE_SECONDS)
    assert followed.state.revision == 1


async def test_what_was_on_its_way_is_not_when_the_stream_ends(tmp_path):
    async with following(tmp_path) as (followed, server):
        await followed.service.send([pb.SnapshotChunk(nonce="n", revision=4, chunk=0)])
        await until(lambda: not followed.at_rest.is_set())
        await server.stop(0)
        await asyncio.wait_for(followed.at_rest.wait(), PATIENCE_SECONDS)


async def test_a_refused_snapshot_and_messages_nobody_knows_are_nothing_on_its_way(followed):
    followed.world.tenant("second", 7)
    await followed.service.push(followed.world.resources)
    await until(lambda: followed.service.nacks)
    assert followed.at_rest.is_set()
    await followed.service.say([pb.StreamSnapshotsResponse()])
    told = followed.service.reports
    # The second report from here on answers a heartbeat that came after that message.
    await until(lambda: followed.service.reports > told + 1)
    assert followed.at_rest.is_set()
    await followed.service.push(
        {key: one for key, one in followed.world.resources.items() if "second" not in key}
    )
    await until(lambda: followed.service.acks)
    assert followed.at_rest.is_set()


async def test_a_router_that_leaves_says_goodbye_once_and_does_not_connect_again(tmp_path):
    followed = Followed(tmp_path)
    server = await followed.start()
    async with open_channel(followed.target) as channel:
        client = followed.client(channel)
        running = asyncio.create_task(client.run())
        try:
            await followed.service.push(followed.world.resources)
            await until(lambda: followed.service.acks)
            await asyncio.wait_for(client.leave(5.0), 5)
            assert (followed.service.goodbyes, len(followed.service.hellos)) == (1, 1)
            await asyncio.wait([running], timeout=3 * config_client._BACKOFF_BASE_SECONDS)
            assert not running.done()
            assert len(followed.service.hellos) == 1
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await server.stop(0)


async def test_a_router_without_a_config_service_leaves_at_once(tmp_path):
    followed = Followed(tmp_path)
    async with open_channel(followed.target) as channel:
        client = followed.client(channel)
        running = asyncio.create_task(client.run())
        await asyncio.wait_for(client.leave(0.2), 5)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
