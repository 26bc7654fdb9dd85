"""Quotas of a request: reserved before dispatch, settled after it, refused with reasons that a program can use."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext

import pytest
from google.rpc import error_details_pb2
from tenantry.config.v1 import tenant_pb2
from tenantry.inference.v1 import inference_service_pb2 as pb

from services.common.errors import (
    Code,
    Error,
    QuotaViolation,
    Reason,
    ResourceExhaustedError,
    UnavailableError,
)
from services.common.rpc.status import to_status
from services.router.quota.ledger import Allowance
from services.router.request import admission
from services.router.snapshot.tenant_rules import allowances
from tests.fakes.mutants import replaced
from tests.fakes.router_config import ConfigWorld
from tests.fakes.router_pipeline import PipelineWorld, SimulatedServer

HOUR, MONTH = tenant_pb2.QUOTA_WINDOW_HOUR, tenant_pb2.QUOTA_WINDOW_MONTH
QUOTAS = [tenant_pb2.Quota(window=MONTH, tokens=9000), tenant_pb2.Quota(window=HOUR, tokens=500)]


def tenants(world: ConfigWorld) -> None:
    for uid in (world.tenant("metered", 1, quotas=QUOTAS), world.tenant("free", 2)):
        world.key(uid, f"key-{uid}")


@pytest.fixture
def world(tmp_path) -> PipelineWorld:
    return PipelineWorld(tmp_path, SimulatedServer([ord("a")] * 4), configure=tenants)


async def failure(world: PipelineWorld, name: str) -> Error:
    with pytest.raises(Error) as error:
        await world.pipeline.run(world.call(f"uid-{name}"), None)
    assert world.leaks() == []
    return error.value


async def test_the_most_it_can_come_to_is_held_and_what_it_used_is_charged(world):
    held, generate = [], world.server.generate

    def watched(*given):
        held.append(world.quotas.held)
        return generate(*given)

    world.server.generate = watched
    parameters = pb.SamplingParameters(max_output_tokens=100)
    exchange = await world.pipeline.run(world.call("uid-metered", parameters=parameters), None)
    assert held == [exchange.shaped.cost.input_tokens + 100]
    assert (world.quotas.held, world.quotas.used) == (0, exchange.shaped.cost.input_tokens + 4)
    (asked,) = world.quotas.asked
    assert (asked.tenant_uid, asked.name) == ("uid-metered", "tenants/metered")
    assert asked.allowances == (Allowance.TOKENS_HOUR, Allowance.TOKENS_MONTH)


@pytest.mark.parametrize(("fail_after", "tokens"), [(0, 0), (2, 2)])
async def test_a_server_that_fails_before_its_first_token_costs_nothing(world, fail_after, tokens):
    world.server.fail_after = fail_after
    assert (await failure(world, "metered")).reason is Reason.MODEL_SERVER_FAILED
    await world.recorder.drain(1.0)
    usage = world.audit.entries[-1].meta["usage"]
    assert usage["output_tokens"] == tokens
    assert bool(usage["input_tokens"]) == bool(tokens)
    assert world.quotas.used == usage["input_tokens"] + tokens
    name, labels = "tenantry_input_tokens_total", {"tenant": "uid-metered"}
    assert (world.registry.get_sample_value(name, labels) or 0) == usage["input_tokens"]


async def test_a_caller_that_leaves_before_the_first_token_pays_for_its_prompt(world):
    world.server.hold.clear()
    running = asyncio.create_task(world.pipeline.run(world.call("uid-metered"), None))
    await asyncio.wait_for(world.server.begun.wait(), 5)
    running.cancel()
    await asyncio.wait([running])
    assert world.quotas.used > 0


async def test_what_was_not_used_is_free_while_the_outcome_becomes_durable(world):
    world.server.hold.clear()
    running = asyncio.create_task(world.pipeline.run(world.call("uid-metered"), None))
    await asyncio.wait_for(world.server.begun.wait(), 5)
    assert world.quotas.held > 0
    outcome, append = asyncio.Event(), world.audit.append

    async def watched(entry, timeout_seconds):
        outcome.set()
        return await append(entry, timeout_seconds)

    world.audit.append = watched
    world.audit.durable.clear()
    world.server.hold.set()
    await asyncio.wait_for(outcome.wait(), 5)
    assert (world.quotas.held, running.done()) == (0, False)
    world.audit.durable.set()
    assert (await running).outcome_receipt is not None


async def test_a_tenant_without_quotas_is_never_asked_for(world):
    await world.pipeline.run(world.call("uid-free"), None)
    assert world.quotas.asked == []


async def test_a_quota_that_is_used_up_says_whose_and_when_to_try_again(world):
    world.quotas.refusal = ResourceExhaustedError(
        "used up",
        reason=Reason.QUOTA_EXHAUSTED,
        violations=[QuotaViolation("tenants/metered", "used up")],
        retry_after_seconds=90.0,
    )
    error = await failure(world, "metered")
    assert (error.code, error.reason) == (Code.RESOURCE_EXHAUSTED, Reason.QUOTA_EXHAUSTED)
    kinds = [detail.type_url.rsplit(".", 1)[-1] for detail in to_status(error).details]
    assert kinds == ["ErrorInfo", "QuotaFailure", "RetryInfo"]
    retry = error_details_pb2.RetryInfo()
    to_status(error).details[2].Unpack(retry)
    assert retry.retry_delay.seconds == 90
    assert (world.server.requests, world.audit.entries) == ([], [])
    world.refusals.flush()
    assert world.audit.entries[0].meta["refused"][0]["reason"] == "QUOTA_EXHAUSTED"


async def test_a_quota_that_cannot_be_had_is_no_reason_to_serve(world):
    world.quotas.refusal = UnavailableError("away", reason=Reason.QUOTA_UNAVAILABLE)
    error = await failure(world, "metered")
    assert (error.code, error.reason) == (Code.UNAVAILABLE, Reason.QUOTA_UNAVAILABLE)
    assert error.retry_after_seconds == 1.0
    assert world.server.requests == []
    await world.pipeline.run(world.call("uid-free"), None)


async def test_a_refused_quota_gives_the_minutes_tokens_back(world):
    world.config.tenant("metered", 1, quotas=QUOTAS, limits=tenant_pb2.Limits(tokens_per_minute=400))
    world.apply(2)
    world.quotas.refusal = UnavailableError("away", reason=Reason.QUOTA_UNAVAILABLE)
    for _ in range(5):
        assert (await failure(world, "metered")).reason is Reason.QUOTA_UNAVAILABLE
    world.quotas.refusal = None
    await world.pipeline.run(world.call("uid-metered"), None)


async def test_mutant_that_asks_for_no_quota_serves_whatever_is_left(world):
    careless = replaced(
        admission, "Admission._quota_reserved", lambda admitting, tenant, reservation: nullcontext()
    )
    world.pipeline._admission = careless.Admission(world.limiter, world.quotas, world.clock)
    world.quotas.refusal = UnavailableError("away", reason=Reason.QUOTA_UNAVAILABLE)
    await world.pipeline.run(world.call("uid-metered"), None)


@pytest.mark.parametrize(
    ("windows", "expected"),
    [
        ([], ()),
        ([MONTH, HOUR], (Allowance.TOKENS_HOUR, Allowance.TOKENS_MONTH)),
        ([77], (Allowance.TOKENS_HOUR,)),
        ([0], (Allowance.TOKENS_HOUR,)),
    ],
)
def test_windows_are_the_configs_and_an_unknown_one_is_no_freedom(windows, expected):
    config = tenant_pb2.TenantConfig(quotas=[tenant_pb2.Quota(window=window, tokens=1) for window in windows])
    assert allowances(config) == expected
