"""Sixteen clients race through three routers for the last of each limit: exactly what fits is served."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from tenantry.config.v1 import tenant_pb2
from tenantry.inference.v1 import inference_service_pb2 as pb

from tests.fakes.flow_fleet import NAMES, FlowFleet
from tests.fakes.scripted_triton.script import Script
from tests.integration.mesh_access import Failure, question

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(240),
    pytest.mark.asyncio(loop_scope="module"),
]
CLIENTS = 16
FITS = 7
GENERATED = 4
_SCRIPT = Script(tokens=GENERATED, first_token=3, vocabulary_tokens=97, token_delay_seconds=0.05)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(tmp_path_factory: Any) -> AsyncIterator[FlowFleet]:
    async with FlowFleet(tmp_path_factory.mktemp("f"), places=64, script=_SCRIPT) as made:
        yield made


def asked(most_tokens: int = GENERATED) -> pb.GenerateRequest:
    return question("hi", parameters=pb.SamplingParameters(max_output_tokens=most_tokens))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cost_tokens(fleet: FlowFleet) -> int:
    """What each request uses, and may use."""
    usage = (await fleet.ask("r1", await fleet.new_tenant("measured"), asked())).usage
    assert usage.output_tokens == GENERATED
    return int(usage.input_tokens) + GENERATED


async def raced(fleet: FlowFleet, key: str, requests: int = 3) -> Counter[str]:
    """How the requests of all clients ended; each sends some, one after another."""
    ended: Counter[str] = Counter()

    async def client(number: int) -> None:
        for turn in range(requests):
            try:
                await fleet.ask(NAMES[(number + turn) % len(NAMES)], key, asked())
            except grpc.aio.AioRpcError as error:
                ended[Failure.of(error).reason] += 1
            else:
                ended["ok"] += 1

    await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    return ended


def of_every_key(**limits: Any) -> tenant_pb2.TenantConfig:
    return tenant_pb2.TenantConfig(key_limits=[tenant_pb2.KeyLimits(**limits)])


@pytest.mark.parametrize("whose", ["tenant", "key"])
async def test_a_burst(fleet, whose):
    limits = {"requests_per_second": 1e-6, "request_burst": FITS - 1}
    key = await (
        fleet.new_tenant("burst", **limits)
        if whose == "tenant"
        else fleet.new_tenant("key-burst", of_every_key(**limits))
    )
    assert await raced(fleet, key) == {"ok": FITS, "RATE_LIMITED": 3 * CLIENTS - FITS}


@pytest.mark.parametrize("whose", ["tenant", "key"])
async def test_requests_at_once(fleet, whose):
    limits = {"concurrent_requests": FITS}
    key = await (
        fleet.new_tenant("at-once", **limits)
        if whose == "tenant"
        else fleet.new_tenant("key-at-once", of_every_key(**limits))
    )
    assert await raced(fleet, key, 1) == {"ok": FITS, "CONCURRENCY_LIMITED": CLIENTS - FITS}


@pytest.mark.parametrize("whose", ["tenant", "key"])
async def test_tokens_of_a_minute(fleet, cost_tokens, whose):
    limits = {"tokens_per_minute": FITS * cost_tokens + cost_tokens - 1}
    key = await (
        fleet.new_tenant("tokens", **limits)
        if whose == "tenant"
        else fleet.new_tenant("key-tokens", of_every_key(**limits))
    )
    assert await raced(fleet, key) == {"ok": FITS, "RATE_LIMITED": 3 * CLIENTS - FITS}


@pytest.mark.parametrize("kind", ["quota", "budget"])
async def test_a_quota_and_a_budget(fleet, cost_tokens, kind):
    window, most = tenant_pb2.QUOTA_WINDOW_MONTH, FITS * cost_tokens + cost_tokens - 1
    config = tenant_pb2.TenantConfig()
    if kind == "quota":
        config.quotas.add(window=window, tokens=most)
    else:
        config.spend_budgets.add(window=window, micro_units=most)
        config.prices.add(base_model="models/m", input_micro_units=10**6, output_micro_units=10**6)
    ended = await raced(fleet, await fleet.new_tenant(kind, config))
    assert ended == {"ok": FITS, "QUOTA_EXHAUSTED": 3 * CLIENTS - FITS}


async def used_up(fleet: FlowFleet, key: str, most_tokens: int) -> int:
    """Tokens that all clients use until one more request does not fit although none runs."""
    used, running = 0, 0
    refused: set[str] = set()
    changed = asyncio.Condition()

    async def client(number: int) -> None:
        nonlocal used, running
        for turn in range(number, 1000):
            before, running = used, running + 1
            try:
                usage = (await fleet.ask(NAMES[turn % len(NAMES)], key, asked(most_tokens))).usage
            except grpc.aio.AioRpcError as error:
                refused.add(Failure.of(error).reason)
                usage = None
            running -= 1
            async with changed:
                if usage is not None:
                    used += usage.input_tokens + usage.output_tokens
                    changed.notify_all()
                elif not running and used == before:
                    # Nothing that was held when it was refused is given back any more.
                    over.set()
                    changed.notify_all()
                elif running and not over.is_set():
                    await changed.wait()
            if over.is_set():
                return

    over = asyncio.Event()
    await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    assert refused == {"RATE_LIMITED"}
    return used


@pytest.mark.parametrize("times", [1, 4, 32])
async def test_caps_above_what_is_generated_leave_less_than_one_reservation(fleet, cost_tokens, times):
    """A reservation is prompt and cap; whatever does not fit a whole one stays unused."""
    limit, reserved = 2000, cost_tokens - GENERATED + times * GENERATED
    key = await fleet.new_tenant(f"caps-{times}", tokens_per_minute=limit)
    used = await used_up(fleet, key, times * GENERATED)
    print(f"cap {times} times what is generated: {limit - used} of {limit} tokens unused")
    assert limit - reserved < used <= limit
