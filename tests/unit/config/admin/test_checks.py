"""Checking one tenant's config delays neither the event loop nor another tenant's edits."""

from __future__ import annotations

import asyncio
import threading

import pytest
import re2
from tenantry.config.v1 import config_admin_service_pb2 as pb
from tenantry.config.v1 import credential_pb2, tenant_pb2

from services.common.errors import Error, InvalidArgumentError, Reason, ResourceExhaustedError
from services.config.admin import checks
from services.config.admin.checks import MAX_WAITING, ConfigChecks
from services.config.admin.edits import MAX_REQUEST_BYTES
from services.config.rules.size import MAX_CONFIG_BYTES
from services.config.state.operators import Operator
from tests.fakes.config_plane import Call, ConfigPlane
from tests.fakes.mutants import changed

ADMIN = Operator("key-a", "a", "tenant-admin", "uid-a")
OTHER = Operator("key-b", "b", "tenant-admin", "uid-b")
# Bounds a test that fails; one that passes never waits as long.
LONG_SECONDS = 30.0
_COMPILE = re2.compile


@pytest.fixture
async def plane(tmp_path):
    plane = ConfigPlane(tmp_path)
    await plane.new_model()
    await plane.new_pool()
    await plane.new_tenant("acme")
    return plane


async def tenant_admin(plane, tenant_id):
    key = credential_pb2.Key(
        role=credential_pb2.OPERATOR_ROLE_TENANT_ADMIN, role_tenant=f"tenants/{tenant_id}"
    )
    created = await plane.call("CreateKey", pb.CreateKeyRequest(parent="operators/ada", key=key))
    return Call(created.secret)


class LoopProbe:
    """Work that ends once the event loop has taken a turn meanwhile."""

    def __init__(self, within_seconds):
        self._loop = asyncio.get_running_loop()
        self._within_seconds = within_seconds
        self.served = []

    def __call__(self, *_):
        turned = threading.Event()
        self._loop.call_soon_threadsafe(turned.set)
        self.served.append(turned.wait(self._within_seconds))
        return []


async def edited(plane):
    tenant = await plane.call("GetTenant", pb.GetTenantRequest(name="tenants/acme"))
    tenant.config.system_prompt = "Be brief."
    return await plane.call("UpdateTenant", pb.UpdateTenantRequest(tenant=tenant))


async def test_the_loop_turns_while_a_config_is_checked(plane, monkeypatch):
    probe = LoopProbe(LONG_SECONDS)
    monkeypatch.setattr(checks, "validate_config", probe)
    await edited(plane)
    assert probe.served == [True]
    created = await plane.new_tenant("globex")
    await plane.call("RollbackTenant", pb.RollbackTenantRequest(name="tenants/acme", version=1))
    assert created.config_version == 1
    assert probe.served == [True] * 4


async def test_that_test_notices_a_check_on_the_loop(plane, monkeypatch):
    monkeypatch.setattr(
        plane.edits.checks, "run", lambda _operator, check: asyncio.wait_for(_at_once(check), None)
    )
    probe = LoopProbe(0.01)
    monkeypatch.setattr(checks, "validate_config", probe)
    await edited(plane)
    assert probe.served == [False]


async def _at_once(check):
    return check()


class Held:
    """A check that lasts until it is released."""

    def __init__(self):
        self._loop = asyncio.get_running_loop()
        self.begun = asyncio.Event()
        self._go = threading.Event()

    def __call__(self):
        self._loop.call_soon_threadsafe(self.begun.set)
        assert self._go.wait(LONG_SECONDS)
        return "held"

    def let_go(self):
        self._go.set()


async def test_one_principal_keeps_one_thread_and_leaves_the_others_to_others():
    found = ConfigChecks(None)
    held, second = Held(), Held()
    first = asyncio.create_task(found.run(ADMIN, held))
    await held.begun.wait()
    waits = asyncio.create_task(found.run(ADMIN, second))
    await asyncio.sleep(0)
    assert await found.run(OTHER, lambda: "served") == "served"
    assert not second.begun.is_set()
    held.let_go()
    second.let_go()
    assert [await first, await waits] == ["held", "held"]


async def test_too_many_are_told_when_to_come_back_and_others_are_served():
    found = ConfigChecks(None)
    held = Held()
    tasks = [asyncio.create_task(found.run(ADMIN, held)) for _ in range(MAX_WAITING)]
    await held.begun.wait()
    with pytest.raises(ResourceExhaustedError) as refused:
        await found.run(ADMIN, held)
    assert refused.value.reason is Reason.CONCURRENCY_LIMITED
    assert refused.value.retry_after_seconds
    assert await found.run(OTHER, lambda: "served") == "served"
    held.let_go()
    assert set(await asyncio.gather(*tasks)) == {"held"}
    assert await found.run(ADMIN, lambda: "again") == "again"


async def test_a_wait_ends(monkeypatch):
    monkeypatch.setattr(checks, "WAIT_SECONDS", 0.0)
    found = ConfigChecks(None)
    held = Held()
    first = asyncio.create_task(found.run(ADMIN, held))
    await asyncio.sleep(0)
    with pytest.raises(ResourceExhaustedError):
        await found.run(ADMIN, held)
    held.let_go()
    assert await first == "held"


async def second_begins_when_the_first_caller_leaves(found):
    held, second = Held(), Held()
    first = asyncio.create_task(found.run(ADMIN, held))
    await held.begun.wait()
    first.cancel()
    waits = asyncio.create_task(found.run(ADMIN, second))
    await asyncio.sleep(0)
    await asyncio.wait([first])
    for _ in range(5):
        # What follows from its end follows within a few turns of the loop.
        await asyncio.sleep(0)
    other = asyncio.create_task(found.run(OTHER, lambda: None))
    second_begins = asyncio.create_task(second.begun.wait())
    # One thread is left: the check that came first has begun by now, the other still waits.
    await asyncio.wait([other, second_begins], return_when=asyncio.FIRST_COMPLETED)
    begun = second.begun.is_set()
    held.let_go()
    second.let_go()
    assert await waits == "held"
    await asyncio.gather(other, second_begins)
    return begun


async def test_a_caller_that_leaves_does_not_free_the_thread_it_keeps():
    assert not await second_begins_when_the_first_caller_leaves(ConfigChecks(None))


async def test_that_test_notices_a_turn_that_ends_with_its_caller():
    careless = changed(checks, "check-outlives-caller", "return await work")
    assert await second_begins_when_the_first_caller_leaves(careless.ConfigChecks(None))


@pytest.mark.parametrize("field", ["tenant", "update_mask", "unknown"])
async def test_requests_beyond_all_bounds_are_refused_before_anything_is_made_of_them(plane, field):
    caller = await tenant_admin(plane, "acme")
    tenant = await plane.call("GetTenant", pb.GetTenantRequest(name="tenants/acme"))
    request = pb.UpdateTenantRequest(tenant=tenant)
    if field == "tenant":
        request.tenant.config.models.extend([tenant_pb2.ModelAlias()] * (MAX_CONFIG_BYTES // 2))
    elif field == "update_mask":
        request.update_mask.paths.extend(["config"] * 1000)
    else:
        request.MergeFromString(b"\xf8\x7f\x01" * (MAX_REQUEST_BYTES // 3))
    with pytest.raises(InvalidArgumentError) as refused:
        await plane.call("UpdateTenant", request, caller)
    expected = {"tenant": "tenant.config", "update_mask": "update_mask", "unknown": "request"}[field]
    assert [violation.field for violation in refused.value.violations] == [expected]


async def test_what_is_refused_as_too_much_says_so_to_callers(plane, monkeypatch):
    monkeypatch.setattr(checks, "MAX_WAITING", 0)
    with pytest.raises(Error) as refused:
        await edited(plane)
    assert refused.value.reason is Reason.CONCURRENCY_LIMITED
