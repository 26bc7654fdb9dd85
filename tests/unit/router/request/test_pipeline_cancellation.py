from __future__ import annotations

import asyncio
import contextlib

import pytest
from tenantry.config.v1 import tenant_pb2

from services.common.audit.writer import EntryKind
from services.router.audit.recorder import RequestRecord
from services.router.flow.grant import Grant
from services.router.limits.tenant_limiter import TenantLimiter, TokenHold
from services.router.pool.demand import Cost, Demand
from services.router.request import pipeline as pipeline_module
from services.router.request.outbox import Outbox
from tests.fakes.router_config import BASE_MODEL, ConfigWorld, tiny_rendition
from tests.fakes.router_pipeline import MemoryQuotas, PipelineWorld, SimulatedServer
from tests.unit.router.pool.small_pools import acquire

QUOTA = tenant_pb2.Quota(window=tenant_pb2.QUOTA_WINDOW_DAY, tokens=1_000_000)
LIMITS = tenant_pb2.Limits(tokens_per_minute=1000)


def one_tenant_with_an_adapter(world: ConfigWorld) -> None:
    alias = tenant_pb2.ModelAlias(alias="chat", base_model=BASE_MODEL, adapter="tone")
    uid = world.tenant("acme", 7, [alias], limits=LIMITS, quotas=[QUOTA])
    world.key(uid, f"key-{uid}")
    world.adapter(uid, "tone", 1, tiny_rendition(1))
    world.pool(["server"], concurrent_requests=1)


def world_of(folder, pipeline_class=pipeline_module.Pipeline) -> PipelineWorld:
    server = SimulatedServer([ord("a")] * 6)
    # A wrong estimate: the first attempt is a miss, so that the resend is cancelled at every step too.
    world = PipelineWorld(folder, server, pipeline_class=pipeline_class, configure=one_tenant_with_an_adapter)
    endpoint = next(iter(world.pool()._endpoints))
    endpoint.ledger.use((7 << 40) | 1)
    endpoint.ledger.loaded((7 << 40) | 1, endpoint.ledger.epoch)
    endpoint.ledger.release((7 << 40) | 1, endpoint.ledger.epoch)
    return world


async def cancelled_at(world: PipelineWorld, step: int, *, queued: bool) -> bool:
    """Run one request, cancel it after so many turns of the loop, and return whether it was still running."""
    outbox = Outbox(1000)
    held = await acquire(world.pool(), Demand("x", Cost(1, 1), None)) if queued else None
    running = asyncio.create_task(world.pipeline.run(world.call("uid-acme"), outbox))
    for turn in range(step):
        if held is not None and turn == 8:
            held.give_back()
            held = None
        await asyncio.sleep(0)
    alive = not running.done()
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    if held is not None:
        held.give_back()
    assert await world.recorder.drain(1.0) == 0
    return alive


def faults(world: PipelineWorld) -> list[str]:
    """What a cancelled request did not give back or did not record."""
    found = world.leaks()
    admits = [entry for entry in world.audit.entries if entry.kind is EntryKind.ADMIT]
    outcomes = [entry for entry in world.audit.entries if entry.kind is EntryKind.OUTCOME]
    if [entry.record_id for entry in admits] != [entry.admit_record_id for entry in outcomes]:
        found.append("an admit without its outcome")
    used = sum(sum(entry.meta["usage"].values()) for entry in outcomes)
    if world.quotas.used != used:
        found.append(f"{world.quotas.used} tokens of the quota, and {used} used")
    usage = world.limiter._usage.get("uid-acme")
    if usage and usage.tokens.reserved:
        found.append(f"{usage.tokens.reserved} tokens reserved for nothing")
    if usage and usage.tokens.spent != used:
        found.append(f"{usage.tokens.spent} tokens of the minute, and {used} used")
    return found


async def every_step(
    folder, pipeline_class=pipeline_module.Pipeline, *, queued: bool
) -> dict[int, list[str]]:
    """Faults by the step at which a request was cancelled, for every step."""
    found: dict[int, list[str]] = {}
    for step in range(200):
        own = folder / str(step)
        own.mkdir()
        world = world_of(own, pipeline_class)
        alive = await cancelled_at(world, step, queued=queued)
        if problems := faults(world):
            found[step] = problems
        if not alive:
            assert step > 15, "the request was over before it could be cancelled anywhere"
            return found
    raise AssertionError("the request never ended")


@pytest.mark.parametrize("queued", [False, True], ids=["served at once", "after queueing"])
async def test_a_request_cancelled_at_any_step_leaves_nothing_behind(tmp_path, queued):
    assert await every_step(tmp_path, queued=queued) == {}


async def returns_none(*given):
    return None


def only_of_errors(fail):
    """A record that writes no outcome for requests that are cancelled."""

    def failing(record, reached, status, ended_at):
        if status not in {"CANCELLED_BY_CALLER", "DEADLINE_PASSED"}:
            fail(record, reached, status, ended_at)

    return failing


@pytest.mark.parametrize(
    ("owner", "name", "broken", "fault"),
    [
        (Grant, "__aexit__", returns_none, "in flight: 1"),
        (TenantLimiter, "leave", lambda limiter, tenant_uid: None, "concurrent: 1"),
        (MemoryQuotas, "settle", lambda quotas, reservation, used_tokens: None, "quota tokens: "),
        (TokenHold, "release", lambda hold: None, "tokens reserved for nothing"),
        (RequestRecord, "fail", only_of_errors(RequestRecord.fail), "an admit without its outcome"),
    ],
)
async def test_that_test_notices_what_is_not_given_back(tmp_path, monkeypatch, owner, name, broken, fault):
    monkeypatch.setattr(owner, name, broken)
    found = await every_step(tmp_path, queued=False)
    assert any(fault in problem for problems in found.values() for problem in problems)


async def test_a_caller_that_leaves_is_recorded_as_cancelled(tmp_path):
    world = world_of(tmp_path)
    world.server.hold.clear()
    running = asyncio.create_task(world.pipeline.run(world.call("uid-acme"), None))
    await asyncio.wait_for(world.server.begun.wait(), 5)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await world.recorder.drain(1.0)
    assert world.server.open_streams == 0
    assert world.audit.entries[-1].meta["status"] == "CANCELLED_BY_CALLER"
    assert world.registry.get_sample_value(
        "tenantry_requests_total", {"tenant": "uid-acme", "outcome": "CANCELLED_BY_CALLER"}
    )
