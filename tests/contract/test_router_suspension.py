"""A tenant that is suspended, or a key that is revoked, ends what runs and what waits: measured at the server."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from tenantry.config.v1 import credential_pb2, tenant_pb2
from tenantry.inference.v1 import inference_service_pb2 as inference_pb

from services.common.audit.entry import EntryKind
from services.common.errors import Error, Reason
from services.router.backends.channels import EndpointChannels
from services.router.backends.dispatch import Dispatcher
from services.router.backends.triton_stream import TritonStreamBackend
from services.router.request import pipeline as pipeline_module
from services.router.request.outbox import Outbox
from tests.fakes.mutants import changed
from tests.fakes.router_config import ConfigWorld
from tests.fakes.router_pipeline import InstantWeights, PipelineWorld, SimulatedServer
from tests.fakes.scripted_triton.script import Script
from tests.fakes.scripted_triton.server import ScriptedTriton

STREAMING = QUEUED = 50
FEW = inference_pb.SamplingParameters(max_output_tokens=10)
SLOW = Script(first_token=ord("a"), vocabulary_tokens=ord("z"), token_delay_seconds=0.05)


@asynccontextmanager
async def served(folder):
    def configure(config: ConfigWorld) -> None:
        for name, ordinal in (("acme", 7), ("other", 8)):
            config.key(config.tenant(name, ordinal, limits={"concurrent_requests": 200}), f"key-uid-{name}")
        config.pool([triton.target], concurrent_requests=STREAMING, queued_requests=200, kv_tokens=1 << 20)

    async with ScriptedTriton(SLOW) as triton, EndpointChannels(None) as channels:
        world = PipelineWorld(folder, SimulatedServer([]), configure=configure)
        async with TritonStreamBackend(channels, 5.0) as backend:
            world.pipeline._dispatcher = Dispatcher(
                {"TRTLLM_ENGINE": backend}, InstantWeights(), world.clock, world.pipeline._metrics
            )
            yield world, triton


def suspend(config: ConfigWorld) -> None:
    config.resources["tenants/uid-acme"].tenant.state = tenant_pb2.TENANT_STATE_SUSPENDED


def revoke(config: ConfigWorld) -> None:
    config.resources["credentials/key-uid-acme"].credential.key.state = credential_pb2.KEY_STATE_REVOKED


@dataclass
class Ends:
    reasons: list[str]
    sent_after: int
    recorded: list[str]


async def ends_after(world: PipelineWorld, triton: ScriptedTriton, change) -> Ends:
    """How fifty streams and fifty waiting requests of a tenant end after a change of config."""
    running = [
        asyncio.create_task(world.pipeline.run(world.call("uid-acme", timeout_seconds=60.0), Outbox(1 << 20)))
        for _ in range(STREAMING + QUEUED)
    ]
    async with asyncio.timeout(30):
        while triton.counts.running < STREAMING or world.pool().queued < QUEUED:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.005)
    sent = triton.counts.requests - triton.counts.stops
    change(world.config)
    world.apply(2)
    done, late = await asyncio.wait(running, timeout=5)
    for task in late:
        task.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    await asyncio.wait_for(triton.idle.wait(), 10)
    async with asyncio.timeout(10):
        # A place is free once the server's work has ended.
        while world.pool().in_flight:  # noqa: ASYNC110 - the pool has no event of its own
            await asyncio.sleep(0.005)
    await world.recorder.drain(5.0)
    failures = [task.exception() for task in done]
    return Ends(
        [failure.reason for failure in failures if isinstance(failure, Error)],
        triton.counts.requests - triton.counts.stops - sent,
        [entry.meta["status"] for entry in world.audit.entries if entry.kind is EntryKind.OUTCOME],
    )


@pytest.mark.parametrize(
    ("change", "reason"), [(suspend, Reason.TENANT_SUSPENDED), (revoke, Reason.KEY_REFUSED)]
)
async def test_what_runs_and_what_waits_ends(tmp_path, change, reason):
    async with served(tmp_path) as (world, triton):
        ends = await ends_after(world, triton, change)
        assert ends.reasons == [reason] * (STREAMING + QUEUED)
        assert ends.sent_after == 0
        assert ends.recorded == [reason] * (STREAMING + QUEUED)
        assert world.leaks() == []


async def test_that_test_notices_requests_that_go_on(tmp_path, monkeypatch):
    careless = changed(pipeline_module, "suspension-ends-requests", "ended = 0").Pipeline
    monkeypatch.setattr(pipeline_module.Pipeline, "config_changed", careless.config_changed)
    async with served(tmp_path) as (world, triton):
        ends = await ends_after(world, triton, suspend)
        assert ends.reasons == []


async def test_another_tenant_is_not_touched(tmp_path):
    async with served(tmp_path) as (world, triton):
        other = asyncio.create_task(
            world.pipeline.run(world.call("uid-other", timeout_seconds=60.0, parameters=FEW), Outbox(1 << 20))
        )
        async with asyncio.timeout(10):
            while not triton.counts.running:  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.005)
        suspend(world.config)
        world.apply(2)
        assert (await asyncio.wait_for(other, 60)).text
