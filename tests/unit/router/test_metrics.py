"""Five metrics a tenant: outcomes, tokens in, tokens out, first token, time a token. Callers cannot make series."""

from __future__ import annotations

import asyncio
import socket
import urllib.request

import pytest
from prometheus_client import CollectorRegistry
from pydantic import ValidationError
from tenantry.config.v1 import tenant_pb2

from services.common.errors import Error
from services.common.metrics import serve_metrics
from services.router.metrics import RequestMetrics
from services.router.pool_metrics import PoolMetrics
from services.router.request.pipeline import Call
from services.router.settings import RouterSettings
from services.router.snapshot.config_metrics import ConfigMetrics
from services.router.snapshot_follower import SnapshotFollower
from tests.fakes.manual_clock import ManualClock
from tests.fakes.router_config import ConfigWorld
from tests.fakes.router_pipeline import PipelineWorld, SimulatedServer, question, received


class SlowServer(SimulatedServer):
    """Takes two seconds to the first token and half a second to each of the others."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__([])
        self.clock = clock

    async def generate(self, target, request, timeout_seconds, linger):
        self.clock.advance(1.5)
        async for chunk in super().generate(target, request, timeout_seconds, linger):
            self.clock.advance(0.5 if chunk.token_ids else 0.0)
            yield chunk


def tenants(world: ConfigWorld) -> None:
    for ordinal, name in enumerate(("acme", "globex"), start=1):
        limits = tenant_pb2.Limits(requests_per_second=1000, request_burst=1000)
        world.key(world.tenant(name, ordinal, limits=limits), f"key-uid-{name}")


@pytest.fixture
def world(tmp_path) -> PipelineWorld:
    clock = ManualClock()
    made = PipelineWorld(tmp_path, SlowServer(clock), clock=clock, configure=tenants)
    tokeniser = made.state.snapshot().tenants["uid-acme"].targets["chat"].base_model.text.tokeniser
    made.server.answer = [tokeniser.encode_prompt("h")[0]] * 5
    return made


def value(world: PipelineWorld, name: str, **labels: str) -> float | None:
    return world.registry.get_sample_value(name, labels)


def series(world: PipelineWorld) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in world.registry.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


async def test_an_answer_counts_for_its_tenant_only(world):
    exchange = await world.pipeline.run(world.call("uid-acme"), None)
    mine = {"tenant": "uid-acme"}
    assert value(world, "tenantry_requests_total", outcome="ok", **mine) == 1
    assert value(world, "tenantry_input_tokens_total", **mine) == exchange.shaped.cost.input_tokens > 0
    assert value(world, "tenantry_output_tokens_total", **mine) == 5
    assert value(world, "tenantry_first_token_seconds_sum", **mine) == pytest.approx(2.0)
    assert value(world, "tenantry_per_token_seconds_sum", **mine) == pytest.approx(0.5)
    assert value(world, "tenantry_per_token_seconds_count", **mine) == 1
    assert not [key for key in series(world) if "uid-globex" in key]


async def test_service_is_what_fair_queues_count(world):
    exchange = await world.pipeline.run(world.call("uid-acme"), None)
    given = value(world, "tenantry_service_total", tenant="uid-acme")
    assert given == exchange.shaped.cost.input_tokens + 2 * 5
    assert value(world, "tenantry_queue_seconds_count", tenant="uid-acme") == 1
    assert value(world, "tenantry_queue_seconds_sum", tenant="uid-acme") == 0.0


async def test_pools_say_who_waits_and_what_is_taken(world):
    world.registry.register(PoolMetrics(world.pools, world.pipeline._metrics))
    world.config.pool(["server"], concurrent_requests=1)
    world.apply(2)
    await world.pipeline.run(world.call("uid-globex", timeout_seconds=60), None)
    world.server.begun.clear()
    world.server.hold.clear()
    runs = asyncio.create_task(world.pipeline.run(world.call("uid-acme", timeout_seconds=60), None))
    await asyncio.wait_for(world.server.begun.wait(), 5)
    waits = asyncio.create_task(world.pipeline.run(world.call("uid-globex", timeout_seconds=60), None))
    async with asyncio.timeout(5):
        while not world.pool().queued:  # noqa: ASYNC110 - the pool has no event of its own
            await asyncio.sleep(0)
    main = {"pool": "pools/main"}
    assert value(world, "tenantry_pool_queued_requests", **main) == 1
    assert value(world, "tenantry_pool_in_flight_requests", **main) == 1
    assert value(world, "tenantry_pool_places", **main) == 1
    assert 0 < value(world, "tenantry_pool_kv_tokens", **main) < 16_384
    assert value(world, "tenantry_pool_kv_capacity_tokens", **main) == 16_384
    # It has its place, and with it a series.
    assert value(world, "tenantry_in_flight_requests", tenant="uid-acme") == 1
    assert value(world, "tenantry_queued_requests", tenant="uid-globex") == 1
    world.clock.advance(3.0)
    world.server.hold.set()
    await asyncio.gather(runs, waits)
    assert value(world, "tenantry_queue_seconds_sum", tenant="uid-globex") >= 3.0
    assert value(world, "tenantry_pool_kv_tokens", **main) == 0
    assert value(world, "tenantry_queued_requests", tenant="uid-globex") is None


async def test_one_token_has_no_time_between_tokens(world):
    world.server.answer = world.server.answer[:1]
    await world.pipeline.run(world.call("uid-acme"), None)
    assert value(world, "tenantry_first_token_seconds_count", tenant="uid-acme") == 1
    assert value(world, "tenantry_per_token_seconds_count", tenant="uid-acme") is None


async def test_every_way_to_end_is_an_outcome_of_its_own(world):
    world.server.fail_after = 3
    with pytest.raises(Error):
        await world.pipeline.run(world.call("uid-acme"), None)
    mine = {"tenant": "uid-acme"}
    assert value(world, "tenantry_requests_total", outcome="MODEL_SERVER_FAILED", **mine) == 1
    # The tokens that were generated count, since they were charged; a mean over a whole answer is not known.
    assert value(world, "tenantry_output_tokens_total", **mine) == 3
    assert value(world, "tenantry_first_token_seconds_count", **mine) == 1
    with pytest.raises(Error):
        await world.pipeline.run(world.call("uid-globex", model="none"), None)
    theirs = {"tenant": "uid-globex"}
    assert value(world, "tenantry_requests_total", outcome="MODEL_NOT_FOUND", **theirs) == 1
    assert value(world, "tenantry_input_tokens_total", **theirs) is None


async def test_a_caller_that_leaves_is_an_outcome_too(world):
    world.server.hold.clear()
    running = asyncio.create_task(world.pipeline.run(world.call("uid-acme", timeout_seconds=60), None))
    await asyncio.wait_for(world.server.begun.wait(), 5)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    labels = {"tenant": "uid-acme", "outcome": "CANCELLED_BY_CALLER"}
    assert value(world, "tenantry_requests_total", **labels) == 1


async def test_no_caller_can_make_series(world):
    async def ask(number: int) -> None:
        for call in (
            world.call("uid-acme", model=f"m{number}", adapter=f"a{number}", correlation_id=f"c{number}"),
            Call(received(question("x")), world.token(f"uid-{number}", f"key-{number}"), 5.0),
            Call(received(question("x")), f"Bearer nonsense{number}", 5.0),
        ):
            with pytest.raises(Error):
                await world.pipeline.run(call, None)

    await ask(0)
    before = set(series(world))
    for number in range(1, 50):
        await ask(number)
    assert set(series(world)) == before


async def test_tenants_that_are_gone_leave_no_series(world):
    metrics = world.pipeline._metrics
    await world.pipeline.run(world.call("uid-acme"), None)
    kept = set(series(world))
    await world.pipeline.run(world.call("uid-globex"), None)
    with pytest.raises(Error):
        await world.pipeline.run(world.call("uid-globex", model="none"), None)
    assert {key for key in series(world) if "uid-globex" in key}
    metrics.keep_only({"uid-acme"})
    assert set(series(world)) == kept
    # A request that was still running when its tenant was deleted is forgotten with the next snapshot.
    await world.pipeline.run(world.call("uid-globex"), None)
    metrics.keep_only({"uid-acme"})
    assert set(series(world)) == kept


async def test_a_snapshot_without_a_tenant_forgets_its_series(world):
    await world.pipeline.run(world.call("uid-globex"), None)
    metrics = world.pipeline._metrics, ConfigMetrics(CollectorRegistry())
    parts = (world.pools, [world.limiter.forget], *metrics, None, None, "config")
    follower = SnapshotFollower(*parts)
    follower.follow(world.state.snapshot())
    assert [key for key in series(world) if "uid-globex" in key]
    for name in [name for name in world.config.resources if "globex" in name]:
        del world.config.resources[name]
    world.apply(2)
    follower.follow(world.state.snapshot())
    assert not [key for key in series(world) if "uid-globex" in key]


async def test_so_many_tenants_have_series_of_their_own_and_no_more(world):
    world.registry = CollectorRegistry()
    metrics = world.pipeline._metrics = RequestMetrics(world.registry, max_tenants=1)
    for name in ("acme", "globex", "globex"):
        await world.pipeline.run(world.call(f"uid-{name}"), None)
    assert value(world, "tenantry_requests_total", tenant="uid-acme", outcome="ok") == 1
    assert value(world, "tenantry_requests_total", tenant="other", outcome="ok") == 2
    assert value(world, "tenantry_output_tokens_total", tenant="other") == 10
    assert not [key for key in series(world) if "uid-globex" in key]
    # The next tenant takes the room of a deleted one.
    metrics.keep_only({"uid-globex"})
    await world.pipeline.run(world.call("uid-globex"), None)
    assert value(world, "tenantry_requests_total", tenant="uid-globex", outcome="ok") == 1


async def test_a_tenant_has_few_series(world):
    await world.pipeline.run(world.call("uid-acme"), None)
    assert len([key for key in series(world) if "uid-acme" in key]) <= 25


def settings(tmp_path) -> RouterSettings:
    return RouterSettings(
        listen="unix:/l",
        config_target="unix:/c",
        audit_target="unix:/a",
        artifact_dir=tmp_path,
        jwks_path=tmp_path,
    )


def scraped(url: str, token: str) -> str:
    request = urllib.request.Request(url, headers={"authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=5) as answer:
        return str(answer.read().decode())


async def test_metrics_are_served_where_the_settings_say(tmp_path, world, monkeypatch):
    await world.pipeline.run(world.call("uid-acme"), None)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("TENANTRY_ROUTER_METRICS_ADDRESS", address)
    monkeypatch.setenv("TENANTRY_ROUTER_METRICS_TOKEN_PATH", str(tmp_path / "token"))
    given = settings(tmp_path)
    with serve_metrics(world.registry, given.metrics_address, given.metrics_token_path):
        text = await asyncio.to_thread(scraped, f"http://{address}/metrics", (tmp_path / "token").read_text())
    assert 'tenantry_requests_total{outcome="ok",tenant="uid-acme"} 1.0' in text


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0:9000", "10.0.0.1:9000", "[::]:9000", ":9000", "example.org:9000", "127.0.0.1", "127.0.0.1:x"],
)
def test_metrics_never_leave_the_host(tmp_path, monkeypatch, address):
    monkeypatch.setenv("TENANTRY_ROUTER_METRICS_ADDRESS", address)
    with pytest.raises(ValidationError, match="loopback"):
        settings(tmp_path)


@pytest.mark.parametrize("address", ["127.0.0.1:9000", "localhost:9000"])
def test_loopback_is_where_metrics_may_be(tmp_path, monkeypatch, address):
    monkeypatch.setenv("TENANTRY_ROUTER_METRICS_ADDRESS", address)
    monkeypatch.setenv("TENANTRY_ROUTER_METRICS_TOKEN_PATH", str(tmp_path / "token"))
    assert settings(tmp_path).metrics_address == address
