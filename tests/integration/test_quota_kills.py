"""Routers that spend quotas, over a real etcd: killed, restarted and stopped at random, while etcd's books are read."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace

import grpc
import pytest
from tenantry.config.v1 import config_admin_service_pb2 as admin_pb
from tenantry.config.v1 import quota_lease_service_pb2_grpc, stored_pb2, tenant_pb2

from services.common.clock import SystemClock
from services.common.rpc.interceptors import ErrorInterceptor
from services.config.etcd import keys as etcd_keys
from services.config.etcd.client import EtcdClient
from services.config.quota import leases as real_leases
from services.config.quota import ledger as real_ledger
from services.config.quota.servicer import QuotaLeaseServicer
from services.router.quota.ledger import Allowance
from tests.fakes import quota_spender
from tests.fakes.config_service import ConfigServicePlane
from tests.fakes.etcd_process import EtcdProcess
from tests.fakes.mutants import changed, replaced
from tests.fakes.patience import PATIENCE_SECONDS
from tests.fakes.quota_spender import Spending
from tests.fakes.quota_windows import within_one_month

pytestmark = pytest.mark.integration
MONTH = tenant_pb2.QUOTA_WINDOW_MONTH
ROUTERS = 3
RAISE_TOKENS = 100_000


class OvershotError(AssertionError):
    """Etcd's books do not cover what may have been spent, or exceed the quota."""


@dataclass
class Books:
    window_start: int
    used: int
    held: int


class Field:
    """Three routers, the quota they share, and a look at etcd's books at any time."""

    def __init__(self, folder, target, store, tenant_uid, quota, renew_seconds):
        self.folder, self.target, self.store = folder, target, store
        self.tenant_uid, self.quota, self.renew_seconds = tenant_uid, quota, renew_seconds
        self.key = etcd_keys.quota_key(tenant_uid, "month")
        self.random = random.Random(20)
        self.processes = {}
        self.logs = []

    def start(self, router):
        log = self.folder / f"session-{len(self.logs)}.log"
        self.logs.append(log)
        spending = Spending(
            self.target,
            router,
            self.tenant_uid,
            Allowance.TOKENS_MONTH,
            log,
            self.renew_seconds,
            len(self.logs),
        )
        self.processes[router] = (quota_spender.start(spending), log)

    async def end(self, router, *, kill):
        process, log = self.processes.pop(router)
        process.kill() if kill else process.terminate()
        await asyncio.to_thread(process.join, PATIENCE_SECONDS)
        assert process.exitcode is not None
        return log

    async def refill(self, books):
        """Raise a quota that is nearly used up."""

    async def has_spent(self, router):
        _, log = self.processes[router]
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not log.exists() or log.stat().st_size < 100:
                await self.refill(await self.check())
                await asyncio.sleep(0.01)

    async def books(self):
        stored = await self.store.get(self.key)
        account = stored_pb2.StoredQuota.FromString(stored.value if stored else b"")
        held = sum(part.held_units for part in account.slices)
        return Books(account.window_start.seconds, account.used_units, held)

    def spent(self):
        return sum(quota_spender.truth(log) for log in self.logs)

    async def check(self):
        """At this moment: what may have been spent is on the books, and the books are within the quota."""
        spent = self.spent()
        books = await self.books()
        if not spent <= books.used + books.held <= self.quota:
            raise OvershotError(f"{spent} spent, {books}, quota {self.quota}")
        return books

    async def until(self, condition):
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                books = await self.check()
                if condition(books):
                    return books
                await asyncio.sleep(0.01)

    async def close(self):
        for router in list(self.processes):
            await self.end(router, kill=True)


@pytest.fixture
async def plane(tmp_path_factory):
    async with ConfigServicePlane(tmp_path_factory.mktemp("p")) as running:
        await running.with_catalog()
        yield running


async def with_quota(plane, tokens):
    tenant = await plane.new_tenant(f"acme-{secrets.token_hex(4)}")
    tenant.config.quotas.add(window=MONTH, tokens=tokens)
    return await plane.call("UpdateTenant", admin_pb.UpdateTenantRequest(tenant=tenant))


@pytest.mark.timeout(300)
async def test_kills_overshoot_nothing_and_lose_no_usage(plane):
    """The short form of tests/chaos/test_quota_chaos.py."""
    await within_one_month(lambda: spend_through_kills(plane, 50))


async def spend_through_kills(plane, kills):
    tenant = await with_quota(plane, RAISE_TOKENS)
    channel = plane.etcd.channel()
    discovery = f"unix:{plane.folder}/d.sock"
    folder = Path(mkdtemp(dir=plane.folder))
    field = Field(folder, discovery, EtcdClient(channel), tenant.tenant_uid, RAISE_TOKENS, renew_seconds=20.0)
    raised = 0

    async def refill(books):
        nonlocal raised
        if field.quota - books.used - books.held < 500:
            found = await plane.call("GetTenant", admin_pb.GetTenantRequest(name=tenant.name))
            found.config.quotas[0].tokens += RAISE_TOKENS
            # From here on it may be in force already.
            field.quota += RAISE_TOKENS
            raised += 1
            await plane.call("UpdateTenant", admin_pb.UpdateTenantRequest(tenant=found))

    field.refill = refill
    try:
        # It takes a slice, dies, and nobody of its name comes back.
        field.start("dead")
        await field.has_spent("dead")
        await field.end("dead", kill=True)
        died = time.monotonic()
        for number in range(ROUTERS):
            field.start(f"r{number}")
        for event in range(kills):
            router = f"r{field.random.randrange(ROUTERS)}"
            await field.has_spent(router)
            await field.end(router, kill=field.random.random() < 0.9)
            if event % 50 == 10:
                await plane.service.kill()
                await plane.service.start()
            elif event % 50 == 30:  # not among the last: who stops while etcd is away gives nothing back
                await plane.etcd.kill()
                await plane.etcd.start()
            field.start(router)
        for number in range(ROUTERS):
            await field.has_spent(f"r{number}")
        stopped = [await field.end(f"r{number}", kill=False) for number in range(ROUTERS)]
        assert all(log.read_bytes().endswith(quota_spender.GIVEN_BACK) for log in stopped)
        # The one wait for the clock: leases of the real service last that long.
        await asyncio.sleep(max(0.0, died + real_leases.LEASE_SECONDS + 1 - time.monotonic()))
        field.start("last")
        await field.has_spent("last")
        await field.end("last", kill=False)
        books = await field.check()
        # Everybody gave back what it held, and what the dead one held is used.
        assert books.held == 0
        assert books.used >= field.spent()
        assert raised > 0
    finally:
        await field.close()
        await channel.close()


@asynccontextmanager
async def leasing(folder, leases, *, quota, lease_seconds):
    """A quota lease service in this process over a real etcd, whose rules a test may break."""
    async with EtcdProcess(folder / "etcd") as etcd:
        channel = etcd.channel()
        store = EtcdClient(channel)
        config = tenant_pb2.TenantConfig(quotas=[tenant_pb2.Quota(window=MONTH, tokens=quota)])
        revision = await store.write([], {etcd_keys.tenant_key("t1"): b"x"})
        record = SimpleNamespace(config=config, mod_revision=revision)
        current = SimpleNamespace(state=SimpleNamespace(tenant_by_uid=lambda uid: record))
        server = grpc.aio.server(interceptors=[ErrorInterceptor()])
        service = QuotaLeaseServicer(leases.QuotaLeases(store, current, SystemClock(), lease_seconds))
        quota_lease_service_pb2_grpc.add_QuotaLeaseServiceServicer_to_server(service, server)
        server.add_insecure_port(f"unix:{folder}/q.sock")
        await server.start()
        field = Field(folder, f"unix:{folder}/q.sock", store, "t1", quota, lease_seconds * 2 / 3)
        try:
            yield field
        finally:
            await field.close()
            await server.stop(None)
            await channel.close()


async def kill_routers_for_good(folder, leases, *, spent_first=False):
    """Each router dies with a slice in its hands; when it has expired, others spend all there is."""
    async with leasing(folder, leases, quota=6_000, lease_seconds=2.0) as field:
        for number in range(8):
            router = f"r{number}"
            field.start(router)
            await field.until(lambda books: books.held > 0)
            if spent_first:
                _, log = field.processes[router]
                await field.until(
                    lambda books, log=log: quota_spender.truth(log) > 0 or books.used == field.quota
                )
            await field.end(router, kill=True)
            if (await field.check()).used == field.quota:
                break
        field.start("survivor")
        return await field.until(lambda books: books.used == field.quota)


async def test_a_dead_routers_slice_is_used_once_it_expires(tmp_path_factory):
    books = await within_one_month(lambda: kill_routers_for_good(tmp_path_factory.mktemp("q"), real_leases))
    assert (books.used, books.held) == (6_000, 0)


LATE = """
asyncio.get_running_loop().call_later(
    0.5, lambda: asyncio.ensure_future(self._store.write(conditions, {key: _packed(settled)}))
)
written = 1
"""


async def test_a_debit_after_the_answer_is_caught(tmp_path_factory):
    late = changed(real_leases, "debit-before-the-answer", LATE)

    async def scenario():
        with pytest.raises(OvershotError):
            await kill_routers_for_good(tmp_path_factory.mktemp("q"), late)

    await within_one_month(scenario)


async def test_an_expiry_that_gives_tokens_back_is_caught(tmp_path_factory):
    def giving_back(account, span, now_seconds):
        if account is None:
            return real_ledger.Account(span)
        alive = tuple(part for part in account.slices if part.expires_seconds > now_seconds)
        return replace(account, slices=alive)

    generous = replaced(real_ledger, "account_at", giving_back)
    leases = replaced(real_leases, "lease", generous.lease)

    async def scenario():
        with pytest.raises(OvershotError):
            # One that dies before it has spent anything may give all of it back and nobody is the worse for it.
            await kill_routers_for_good(tmp_path_factory.mktemp("q"), leases, spent_first=True)

    await within_one_month(scenario)
