"""Limits of keys, budgets, shadow mode and output tokens, as requests meet them."""

from __future__ import annotations

import asyncio

import pytest
from tenantry.config.v1 import tenant_pb2
from tenantry.inference.v1 import inference_service_pb2 as pb

from services.common.errors import Error, InvalidArgumentError, Reason
from services.router.quota.ledger import Allowance
from tests.fakes.router_config import BASE_MODEL, ConfigWorld
from tests.fakes.router_pipeline import PipelineWorld, SimulatedServer

PRICES = [
    tenant_pb2.TokenPrice(base_model=BASE_MODEL, input_micro_units=1_000_000, output_micro_units=3_000_000)
]


def tenants(world: ConfigWorld) -> None:
    uid = world.tenant("acme", 1)
    world.key(uid, "key-uid-acme")
    world.key(uid, "key-2")


@pytest.fixture
def world(tmp_path) -> PipelineWorld:
    return PipelineWorld(tmp_path, SimulatedServer([ord("a")] * 4), configure=tenants)


def configure(world: PipelineWorld, **config) -> None:
    world.config.tenant("acme", 1, **config)
    world.apply(2)


async def refused(world: PipelineWorld, **fields) -> Error:
    with pytest.raises(Error) as error:
        await world.pipeline.run(world.call("uid-acme", **fields), None)
    return error.value


def counted(world: PipelineWorld, limit: str, mode: str) -> float:
    labels = {"tenant": "uid-acme", "limit": limit, "mode": mode}
    return world.registry.get_sample_value("tenantry_limit_refusals_total", labels) or 0


async def test_a_key_has_its_own_concurrency_and_another_key_goes_on(world):
    configure(world, key_limits=[tenant_pb2.KeyLimits(key="key-uid-acme", concurrent_requests=1)])
    world.server.hold.clear()
    running = asyncio.create_task(world.pipeline.run(world.call("uid-acme"), None))
    await asyncio.wait_for(world.server.begun.wait(), 5)
    error = await refused(world)
    assert (error.reason, error.metadata["limit"]) == (
        Reason.CONCURRENCY_LIMITED, "key_limits.concurrent_requests",
    )  # fmt: skip
    assert counted(world, "key_limits.concurrent_requests", "enforced") == 1
    other = asyncio.create_task(world.pipeline.run(world.call("uid-acme", key_id="key-2"), None))
    world.server.hold.set()
    await asyncio.gather(running, other)


async def test_limits_of_every_key_hold_for_each_alone(world):
    configure(world, key_limits=[tenant_pb2.KeyLimits(tokens_per_minute=60)])
    most = pb.SamplingParameters(max_output_tokens=4)
    asked = [world.pipeline.run(world.call("uid-acme", parameters=most), None) for _ in range(30)]
    said = {
        str(one) for one in await asyncio.gather(*asked, return_exceptions=True) if isinstance(one, Error)
    }
    assert any(one.startswith("limit of this key reached: at most 60 tokens a minute") for one in said)
    await world.pipeline.run(world.call("uid-acme", key_id="key-2", parameters=most), None)


async def test_a_request_is_reserved_at_the_most_it_can_cost_and_charged_what_it_did(world):
    budget = tenant_pb2.SpendBudget(window=tenant_pb2.QUOTA_WINDOW_DAY, micro_units=10**9)
    configure(world, spend_budgets=[budget], prices=PRICES)
    held, generate = [], world.server.generate

    def watched(*given):
        held.append(world.quotas.held_micro_units)
        return generate(*given)

    world.server.generate = watched
    parameters = pb.SamplingParameters(max_output_tokens=100)
    answered = await world.pipeline.run(world.call("uid-acme", parameters=parameters), None)
    prompt = answered.shaped.cost.input_tokens
    assert held == [prompt + 3 * 100]
    assert (world.quotas.held_micro_units, world.quotas.spent_micro_units) == (0, prompt + 3 * 4)
    assert world.quotas.asked[0].allowances == (Allowance.SPEND_DAY,)
    await world.recorder.drain(1.0)
    assert world.audit.entries[-1].meta["usage"]["micro_units"] == prompt + 3 * 4
    spent = world.registry.get_sample_value("tenantry_spent_micro_units_total", {"tenant": "uid-acme"})
    assert spent == prompt + 3 * 4


async def test_without_a_price_nothing_is_said_of_money(world):
    await world.pipeline.run(world.call("uid-acme"), None)
    await world.recorder.drain(1.0)
    assert "micro_units" not in world.audit.entries[-1].meta["usage"]


async def test_limits_in_shadow_mode_count_and_refuse_nothing(world):
    limits = tenant_pb2.Limits(
        requests_per_second=0, concurrent_requests=0, tokens_per_minute=0, input_bytes=0, input_tokens=0
    )
    shadow = [
        tenant_pb2.LIMIT_REQUESTS_PER_SECOND, tenant_pb2.LIMIT_CONCURRENT_REQUESTS,
        tenant_pb2.LIMIT_TOKENS_PER_MINUTE, tenant_pb2.LIMIT_INPUT_BYTES, tenant_pb2.LIMIT_INPUT_TOKENS,
    ]  # fmt: skip
    configure(world, limits=limits, shadow_limits=shadow)
    await world.pipeline.run(world.call("uid-acme"), None)
    for name in (
        "requests_per_second", "concurrent_requests", "tokens_per_minute", "input_bytes", "input_tokens",
    ):  # fmt: skip
        assert counted(world, f"limits.{name}", "shadow") == 1, name
        assert counted(world, f"limits.{name}", "enforced") == 0


async def test_the_models_context_holds_in_shadow_mode(world):
    configure(
        world,
        limits=tenant_pb2.Limits(input_tokens=0, input_bytes=1 << 19),
        shadow_limits=[tenant_pb2.LIMIT_INPUT_TOKENS],
    )
    assert isinstance(await refused(world, text="a" * 400_000), InvalidArgumentError)


async def test_a_quota_in_shadow_mode_is_asked_for_as_one(world):
    configure(
        world,
        quotas=[tenant_pb2.Quota(window=tenant_pb2.QUOTA_WINDOW_HOUR, tokens=1)],
        shadow_limits=[tenant_pb2.LIMIT_QUOTA_HOUR, tenant_pb2.LIMIT_QUOTA_DAY],
    )
    await world.pipeline.run(world.call("uid-acme"), None)
    assert world.quotas.asked[0].shadow == {Allowance.TOKENS_HOUR}


async def test_an_answer_gets_no_more_tokens_than_the_limit(world):
    configure(world, limits=tenant_pb2.Limits(output_tokens=3))
    parameters = pb.SamplingParameters(max_output_tokens=100)
    answered = await world.pipeline.run(world.call("uid-acme", parameters=parameters), None)
    assert answered.shaped.cost.max_output_tokens == 3


async def test_series_of_a_tenant_that_is_gone_are_forgotten(world):
    configure(world, limits=tenant_pb2.Limits(concurrent_requests=0))
    await refused(world)
    assert counted(world, "limits.concurrent_requests", "enforced") == 1
    world.metrics.keep_only(())
    assert counted(world, "limits.concurrent_requests", "enforced") == 0
