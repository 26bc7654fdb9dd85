"""The router's quota client with a scripted lease service: requests, resends, refusals, tokens given back."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from tenantry.config.v1 import quota_lease_service_pb2 as pb
from tenantry.config.v1 import quota_lease_service_pb2_grpc as rpc

from services.common.errors import Reason, ResourceExhaustedError, UnavailableError
from services.common.rpc.channel import open_channel
from services.router.quota.client import MAX_DEMANDS, QuotaClient
from services.router.quota.ledger import Allowance, QuotaTenant, Use
from services.router.quota.slices import SliceRules
from tests.fakes.manual_clock import ManualClock

ACME = QuotaTenant("u1", "tenants/acme", (Allowance.TOKENS_HOUR, Allowance.TOKENS_MONTH))


class ScriptedLeases(rpc.QuotaLeaseServiceServicer):
    def __init__(self, clock):
        self.clock = clock
        self.free = 10_000
        self.requests = []
        self.lose_answers = 0
        self.wrong_answers = 0
        self.code = None
        self.asked = asyncio.Event()

    async def LeaseQuotas(self, request, context):
        self.requests.append(request)
        self.asked.set()
        if self.code is not None:
            await context.abort(self.code, "as scripted")
        if self.lose_answers:
            self.lose_answers -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "as scripted")
        response = pb.LeaseQuotasResponse()
        if self.wrong_answers:
            self.wrong_answers -= 1
            return response
        now = int(self.clock.wall_seconds())
        for demand in request.demands:
            granted = min(demand.wanted_units, self.free)
            grant = response.grants.add(
                tenant_uid=demand.tenant_uid, allowance=demand.allowance, granted_units=granted
            )
            grant.window_start.FromSeconds(now // 3600 * 3600)
            grant.window_end.FromSeconds(now // 3600 * 3600 + 3600)
            grant.expire_time.FromSeconds(now + 30)
        return response

    def told(self, field):
        return sum(getattr(demand, field) for request in self.requests for demand in request.demands)


class Bench:
    async def __aenter__(self):
        self.clock = ManualClock()
        self.leases = ScriptedLeases(self.clock)
        self.server = grpc.aio.server()
        rpc.add_QuotaLeaseServiceServicer_to_server(self.leases, self.server)
        port = self.server.add_insecure_port("127.0.0.1:0")
        await self.server.start()
        self.channel = open_channel(f"127.0.0.1:{port}")
        rules = SliceRules(min_units=100)
        self.client = QuotaClient(self.channel, router="r1", clock=self.clock, rules=rules, wait_seconds=2.0)
        self.running = asyncio.create_task(self.client.run())
        return self

    async def stop(self):
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)

    async def __aexit__(self, *_):
        await self.stop()
        await self.channel.close()
        await self.server.stop(None)


@pytest.fixture
async def bench():
    async with Bench() as running:
        yield running


async def test_the_first_request_waits_for_one_answer_and_the_next_for_none(bench):
    first = await bench.client.reserve(ACME, Use(50))
    assert len(bench.leases.requests) == 1
    assert {demand.allowance for demand in bench.leases.requests[0].demands} == {1, 3}
    before = len(bench.leases.requests)
    second = await bench.client.reserve(ACME, Use(10))
    assert len(bench.leases.requests) == before
    for reservation in (first, second):
        bench.client.settle(reservation, Use(0))
    assert bench.client.available_units("u1", Allowance.TOKENS_HOUR) >= 100


async def test_a_tenant_without_quotas_is_never_asked_for(bench):
    reservation = await bench.client.reserve(QuotaTenant("u2", "tenants/free"), Use(1_000_000))
    bench.client.settle(reservation, Use(5))
    await bench.client.reserve(ACME, Use(1))
    assert {demand.tenant_uid for request in bench.leases.requests for demand in request.demands} == {"u1"}


async def test_a_quota_that_is_used_up_refuses_until_its_window_ends(bench):
    bench.leases.free = 0
    with pytest.raises(ResourceExhaustedError) as refused:
        await bench.client.reserve(ACME, Use(50))
    assert refused.value.reason is Reason.QUOTA_EXHAUSTED
    assert refused.value.violations[0].subject == "tenants/acme"
    assert 0 < refused.value.retry_after_seconds <= 3600
    asked = len(bench.leases.requests)
    for _ in range(100):
        with pytest.raises(ResourceExhaustedError):
            await bench.client.reserve(ACME, Use(50))
    assert len(bench.leases.requests) == asked
    bench.leases.free = 1000
    bench.clock.advance(1.1)
    await bench.client.reserve(ACME, Use(50))


async def test_a_reservation_takes_from_every_window_or_from_none(bench):
    await bench.client.reserve(QuotaTenant("u1", "tenants/acme", (Allowance.TOKENS_HOUR,)), Use(10))
    bench.leases.free = 0
    before = bench.client.available_units("u1", Allowance.TOKENS_HOUR)
    with pytest.raises(ResourceExhaustedError):
        await bench.client.reserve(ACME, Use(20))
    assert bench.client.available_units("u1", Allowance.TOKENS_HOUR) == before


async def test_an_answer_that_was_lost_is_asked_for_again_with_its_number(bench):
    bench.leases.lose_answers = 2
    await bench.client.reserve(ACME, Use(50))
    first, second, third = (request.SerializeToString() for request in bench.leases.requests[:3])
    assert first == second == third


async def test_without_the_config_service_what_is_held_is_spent_until_it_expires(bench):
    await bench.client.reserve(ACME, Use(50))
    await bench.server.stop(None)
    reservation = await bench.client.reserve(ACME, Use(20))
    assert reservation.use.tokens == 20
    bench.clock.advance(31)
    with pytest.raises(UnavailableError) as refused:
        await bench.client.reserve(ACME, Use(1))
    assert refused.value.reason is Reason.QUOTA_UNAVAILABLE
    # A service that is known to be away is not waited for.
    bench.client._wait_seconds = 3600.0
    async with asyncio.timeout(60):
        with pytest.raises(UnavailableError):
            await bench.client.reserve(ACME, Use(1))


async def test_a_clean_stop_gives_everything_back(bench):
    reservation = await bench.client.reserve(ACME, Use(50))
    bench.client.settle(reservation, Use(30))
    await bench.stop()
    assert await bench.client.give_back(5)
    assert bench.client.available_units("u1", Allowance.TOKENS_HOUR) == 0
    wanted, used, returned = (bench.leases.told(f"{name}_units") for name in ("wanted", "used", "returned"))
    assert used == 60
    assert used + returned == wanted


async def test_a_stop_while_a_request_is_under_way_gives_back_what_it_was_granted(bench):
    bench.leases.lose_answers = 1
    waiting = asyncio.create_task(bench.client.reserve(ACME, Use(50)))
    async with asyncio.timeout(5):
        await bench.leases.asked.wait()
    await bench.stop()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert await bench.client.give_back(5)
    answered = {request.sequence: request for request in bench.leases.requests}.values()
    told = [demand for request in answered for demand in request.demands]
    assert sum(d.wanted_units for d in told) == sum(d.returned_units for d in told) > 0


async def test_a_request_that_is_refused_as_wrong_is_not_repeated_for_ever(bench):
    bench.leases.code = grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(UnavailableError):
        await bench.client.reserve(ACME, Use(50))
    bench.leases.code = None
    async with asyncio.timeout(10):
        while True:
            try:
                await bench.client.reserve(ACME, Use(50))
                break
            except UnavailableError:
                await asyncio.sleep(0.05)
    assert len({request.sequence for request in bench.leases.requests}) >= 2


async def test_a_request_whose_answer_does_not_fit_is_not_repeated_for_ever(bench):
    bench.leases.wrong_answers = 1
    with pytest.raises(UnavailableError):
        await bench.client.reserve(ACME, Use(50))
    async with asyncio.timeout(10):
        while True:
            try:
                await bench.client.reserve(ACME, Use(50))
                break
            except UnavailableError:
                await asyncio.sleep(0.05)
    sequences = [request.sequence for request in bench.leases.requests]
    assert sequences == sorted(set(sequences))


async def test_many_tenants_are_asked_for_in_requests_of_bounded_size(bench):
    tenants = [
        QuotaTenant(f"u{n}", f"tenants/t{n}", (Allowance.TOKENS_HOUR,)) for n in range(MAX_DEMANDS + 5)
    ]
    await asyncio.gather(*(bench.client.reserve(tenant, Use(1)) for tenant in tenants))
    assert max(len(request.demands) for request in bench.leases.requests) <= MAX_DEMANDS
    assert len({request.sequence for request in bench.leases.requests}) == len(bench.leases.requests)


async def test_a_spend_budget_takes_micro_units_and_a_quota_tokens(bench):
    both = QuotaTenant("u1", "tenants/acme", (Allowance.TOKENS_HOUR, Allowance.SPEND_DAY))
    reservation = await bench.client.reserve(both, Use(50, 7_000))
    wanted = {demand.allowance: demand.wanted_units for demand in bench.leases.requests[0].demands}
    assert wanted[Allowance.TOKENS_HOUR] < 7_000 <= wanted[Allowance.SPEND_DAY]
    before = bench.client.available_units("u1", Allowance.SPEND_DAY)
    bench.client.settle(reservation, Use(10, 1_000))
    assert bench.client.available_units("u1", Allowance.SPEND_DAY) == before + 6_000


async def test_a_budget_that_is_used_up_says_so_in_money(bench):
    bench.leases.free = 500
    budget = QuotaTenant("u1", "tenants/acme", (Allowance.SPEND_MONTH,))
    with pytest.raises(ResourceExhaustedError, match=r"may cost 0\.007000, and 0\.000500 is left") as refused:
        await bench.client.reserve(budget, Use(1, 7_000))
    assert refused.value.metadata["limit"] == "spend_budgets.month"


async def test_a_quota_in_shadow_mode_refuses_nothing_and_counts_what_it_would(bench):
    seen = []
    bench.client._shadowed = lambda uid, limit: seen.append((uid, limit))
    tried = QuotaTenant("u1", "tenants/acme", (Allowance.TOKENS_HOUR,), frozenset({Allowance.TOKENS_HOUR}))
    bench.leases.free = 0
    reservation = await bench.client.reserve(tried, Use(50))
    assert seen == [("u1", "quotas.hour")]
    bench.client.settle(reservation, Use(20))


async def test_a_quota_in_shadow_mode_refuses_nothing_without_the_config_service(bench):
    tried = QuotaTenant("u1", "tenants/acme", (Allowance.TOKENS_HOUR,), frozenset({Allowance.TOKENS_HOUR}))
    bench.leases.code = grpc.StatusCode.UNAVAILABLE
    await bench.client.reserve(tried, Use(50))
