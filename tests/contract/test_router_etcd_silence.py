"""A config service that lives and has lost etcd: when its routers count as stale."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace

import grpc
import pytest
from prometheus_client import CollectorRegistry
from tenantry.config.v1 import config_discovery_service_pb2_grpc as rpc
from tenantry.config.v1 import tenant_pb2

from services.common.artifacts import DirectoryArtifactStore
from services.common.errors import Reason, UnavailableError
from services.common.rpc.channel import open_channel
from services.router.snapshot import config_client
from services.router.snapshot.config_metrics import ConfigMetrics
from services.router.snapshot.config_state import STALE_AFTER_SECONDS, ConfigState
from services.router.snapshot.outcomes import OutcomeCounts
from services.router.text.text_model import TextModelLoader
from tests.fakes.manual_clock import ManualClock
from tests.fakes.mutants import changed, replaced
from tests.fakes.patience import PATIENCE_SECONDS
from tests.fakes.router_config import ConfigWorld, ScriptedConfigService
from tests.fakes.tiny_text import CHAT_TEMPLATE, tiny_tokeniser_json


async def until(true: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 - looks at plain state of several objects
            await asyncio.sleep(0.01)


@asynccontextmanager
async def following(folder, module=config_client, *, etcd_connected=True):
    """A router's config client behind a scripted config service; two tenants, one of which refuses stale answers."""
    artifacts = DirectoryArtifactStore(folder / "artifacts")
    world = ConfigWorld(
        artifacts, artifacts.put(tiny_tokeniser_json()), artifacts.put(CHAT_TEMPLATE.encode())
    )
    world.base_model()
    world.pool(["a:1"])
    world.tenant("serves", 7)
    world.tenant("refuses", 8, staleness_policy=tenant_pb2.STALENESS_POLICY_REFUSE)
    service = ScriptedConfigService(heartbeat_seconds=0.05)
    service.etcd_connected = etcd_connected
    server = grpc.aio.server()
    rpc.add_ConfigDiscoveryServiceServicer_to_server(service, server)
    server.add_insecure_port(f"unix:{folder}/config.sock")
    await server.start()
    clock = ManualClock()
    state = ConfigState(clock)
    async with open_channel(f"unix:{folder}/config.sock") as channel:
        client = module.ConfigClient(
            channel,
            router="router-9",
            state=state,
            load_text_model=TextModelLoader(artifacts).load,
            on_snapshot=lambda snapshot: None,
            outcomes=OutcomeCounts(),
            metrics=ConfigMetrics(CollectorRegistry()),
        )
        running = asyncio.create_task(client.run())
        try:
            await service.push(world.resources)
            await until(lambda: state.revision == 1)
            yield SimpleNamespace(service=service, state=state, world=world, clock=clock)
            assert not running.done()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await server.stop(0)


def tenant(router, name):
    return router.state.snapshot().tenants[f"uid-{name}"]


async def stale_after(router, seconds: float):
    """Whether the router is stale so much later, after its config service's newest heartbeat."""
    router.clock.advance(seconds)
    # One heartbeat of the earlier state may be under way, and one may be its answer.
    heard = router.service.reports
    await until(lambda: router.service.reports >= heard + 3)
    return router.state.stale


async def test_once_the_loss_of_etcd_is_known_stale_answers_are_refused_or_flagged_within_two_seconds(
    tmp_path,
):
    async with following(tmp_path) as router:
        assert not await stale_after(router, 0.0)
        assert router.state.check_fresh(tenant(router, "refuses")) is False
        router.service.etcd_connected = False
        assert not await stale_after(router, 0.0)
        assert not await stale_after(router, STALE_AFTER_SECONDS - 0.1)
        assert await stale_after(router, 0.2)
        assert router.state.check_fresh(tenant(router, "serves")) is True
        with pytest.raises(UnavailableError) as refusal:
            router.state.check_fresh(tenant(router, "refuses"))
        assert refusal.value.reason is Reason.CONFIG_STALE
        router.service.etcd_connected = True
        assert not await stale_after(router, 0.0)


async def test_etcds_silence_counts_though_the_config_service_has_not_given_it_up(tmp_path):
    async with following(tmp_path) as router:
        assert not await stale_after(router, 0.0)
        router.service.etcd_silence_ms = 6_000
        assert not await stale_after(router, 0.0)
        assert not await stale_after(router, STALE_AFTER_SECONDS - 0.1)
        assert await stale_after(router, 0.2)
        assert router.clock.monotonic_seconds() - router.state._heard_at_seconds < 3


async def test_a_router_that_counts_from_the_heartbeat_notices_no_silence_of_etcd(tmp_path):
    deaf = changed(config_client, "silence-before-the-heartbeat", "self._state.heard()")
    async with following(tmp_path, deaf) as router:
        assert not await stale_after(router, 0.0)
        router.service.etcd_silence_ms = 6_000
        assert not await stale_after(router, STALE_AFTER_SECONDS + 1)


async def test_an_etcd_with_nothing_to_tell_makes_nothing_stale(tmp_path):
    async with following(tmp_path) as router:
        assert not await stale_after(router, 0.0)
        # The longest that the config service waits before it asks a silent etcd.
        router.service.etcd_silence_ms = 250
        for _ in range(10):
            assert not await stale_after(router, 0.5)


async def test_config_that_comes_without_etcd_is_in_force_and_stale(tmp_path):
    async with following(tmp_path, etcd_connected=False) as router:
        assert router.state.stale
        router.world.tenant("serves", 7, version=2)
        await router.service.push(router.world.resources)
        await until(lambda: router.state.revision == 2)
        assert router.state.stale


async def test_a_router_that_asks_for_no_more_than_a_live_config_service_never_notices(tmp_path):
    broken = replaced(
        config_client, "_etcd_silence_seconds", lambda heartbeat: heartbeat.etcd_silence_ms / 1000
    )
    async with following(tmp_path, broken) as router:
        assert not await stale_after(router, 0.0)
        router.service.etcd_connected = False
        assert not await stale_after(router, STALE_AFTER_SECONDS + 1)


async def test_a_router_gives_a_sign_of_life_with_every_heartbeat(tmp_path):
    async with following(tmp_path) as router:
        first = router.service.reports
        await until(lambda: router.service.reports >= first + 3)
