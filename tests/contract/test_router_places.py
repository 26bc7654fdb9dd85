"""Places at an endpoint against the work that its server really does: measured at the scripted Triton."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

from services.router.backends import triton_stream
from services.router.backends.channels import EndpointChannels
from services.router.backends.dispatch import Dispatcher
from services.router.backends.triton_stream import TritonStreamBackend
from services.router.flow import grant as grant_module
from services.router.flow.grant import Grant
from services.router.flow.requests import Requests
from services.router.request.outbox import Outbox
from tests.fakes.mutants import changed
from tests.fakes.router_config import ConfigWorld
from tests.fakes.router_pipeline import InstantWeights, PipelineWorld, SimulatedServer
from tests.fakes.scripted_triton.script import Fault, Script
from tests.fakes.scripted_triton.server import ScriptedTriton

PLACES = 2
# A step that began is not interrupted: so long does work go on that was stopped.
LETTERS = Script(first_token=ord("a"), vocabulary_tokens=ord("z"))
STEP = replace(LETTERS, token_delay_seconds=0.05)


@asynccontextmanager
async def served(folder, script: Script = STEP, end_seconds=5.0):
    """A pipeline whose one endpoint is a scripted Triton."""

    def configure(config: ConfigWorld) -> None:
        config.key(config.tenant("acme", 7), "key-uid-acme")
        config.pool([triton.target], concurrent_requests=PLACES)

    async with ScriptedTriton(script) as triton, EndpointChannels(None) as channels:
        world = PipelineWorld(folder, SimulatedServer([]), configure=configure)
        async with TritonStreamBackend(channels, end_seconds) as backend:
            world.pipeline._dispatcher = Dispatcher(
                {"TRTLLM_ENGINE": backend}, InstantWeights(), world.clock, world.pipeline._metrics
            )
            yield world, triton


async def opens_and_leaves(world, times: int) -> None:
    """Opens a stream, waits for its first token, leaves, again and again."""
    for _ in range(times):
        outbox = Outbox(100_000)
        running = asyncio.create_task(
            world.pipeline.run(world.call("uid-acme", timeout_seconds=30.0), outbox)
        )
        first = asyncio.create_task(outbox.get())
        await asyncio.wait({running, first}, return_when=asyncio.FIRST_COMPLETED)
        running.cancel()
        first.cancel()
        await asyncio.gather(running, first, return_exceptions=True)


async def most_at_work(folder) -> int:
    async with served(folder) as (world, triton):
        await asyncio.gather(*(opens_and_leaves(world, 6) for _ in range(6)))
        await asyncio.wait_for(triton.idle.wait(), 5)
        async with asyncio.timeout(5):
            while world.pool().in_flight:  # noqa: ASYNC110 - the pool has no event of its own
                await asyncio.sleep(0)
        assert triton.counts.requests >= 36
        assert world.leaks() == []
        return int(triton.counts.most_running)


async def test_callers_that_open_and_leave_pile_up_no_work_beyond_the_places(tmp_path):
    assert await most_at_work(tmp_path) == PLACES


async def test_that_test_notices_a_place_that_is_free_before_the_work_has_ended(tmp_path, monkeypatch):
    careless = changed(
        grant_module,
        "place-held-while-the-server-works",
        "if self._left and self.ask.number in self._holder._grants:\n"
        "    self._holder.over(Ended(self.ask.number, self.output_tokens))",
    )
    monkeypatch.setattr(Grant, "_give_back_if_over", careless.Grant._give_back_if_over)
    assert await most_at_work(tmp_path) > PLACES


async def test_a_server_that_does_not_end_in_time_gets_nothing_until_it_is_probed(tmp_path):
    async with served(tmp_path, replace(LETTERS, fault=Fault.HANG, fault_after_tokens=1), 0.2) as (
        world,
        triton,
    ):
        await opens_and_leaves(world, 1)
        assert world.pool().in_flight == 1
        async with asyncio.timeout(5):
            while world.pool().in_flight:  # noqa: ASYNC110 - the pool has no event of its own
                await asyncio.sleep(0)
        waits = asyncio.create_task(world.pipeline.run(world.call("uid-acme"), None))
        async with asyncio.timeout(5):
            while not world.pool().queued:  # noqa: ASYNC110 - the pool has no event of its own
                await asyncio.sleep(0)
        triton.script = replace(LETTERS, tokens=1)
        world.pool().probed(triton.target, ready=True)
        await asyncio.wait_for(waits, 5)
        assert world.leaks() == []


def test_a_server_has_long_to_notice_that_a_caller_left():
    assert triton_stream._END_SECONDS >= 5.0


async def places_held_while_the_admit_is_written(folder) -> int:
    async with served(folder, replace(LETTERS, tokens=1)) as (world, _):
        world.audit.durable.clear()
        running = [
            asyncio.create_task(world.pipeline.run(world.call("uid-acme"), None)) for _ in range(PLACES)
        ]
        for _ in range(50):
            await asyncio.sleep(0)
        held = int(world.pool().in_flight)
        world.audit.durable.set()
        await asyncio.gather(*running)
        assert world.leaks() == []
        return held


async def test_no_place_is_held_while_an_audit_entry_becomes_durable(tmp_path):
    assert await places_held_while_the_admit_is_written(tmp_path) == 0


async def test_that_test_notices_a_place_that_is_taken_first(tmp_path, monkeypatch):
    acquire = Requests.acquire

    async def place_first(requests, request, pool, demand, first):
        grant = await acquire(requests, request, pool, demand, None)
        await first()
        return grant

    monkeypatch.setattr(Requests, "acquire", place_first)
    assert await places_held_while_the_admit_is_written(tmp_path) == PLACES
