"""What a tenant writes holds up neither the event loop nor another tenant's edits."""

from __future__ import annotations

import asyncio
import threading

import pytest
import re2
from tenantry.config.v1 import config_admin_service_pb2 as pb
from tenantry.config.v1 import credential_pb2, tenant_pb2

from services.common.errors import Error, InvalidArgumentError, Reason, ResourceExhaustedError
from services.config import patterns
from services.config.admin import checks
from services.config.admin.checks import MAX_WAITING, ConfigChecks
from services.config.admin.edits import MAX_REQUEST_BYTES
from services.config.operators import Operator
from services.config.patterns import MAX_UNICODE_CLASSES, MAX_WORK
from services.config.rules import guardrails, size
from services.config.validation import MAX_CONFIG_BYTES, validate_config
from tests.fakes.config_plane import Call, ConfigPlane
from tests.fakes.mutants import mutant
from tests.unit.config.test_config_validation import AROUND, good

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
    """Work that ends when the event loop has taken a turn while it ran."""

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
    """A check that lasts until it is let go."""

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
    # One thread is left: what came before the other has begun by now, what waits still waits.
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
    careless = mutant(checks, "await asyncio.shield(work)", "await work")
    assert await second_begins_when_the_first_caller_leaves(careless.ConfigChecks(None))


class Compiles:
    def __init__(self, monkeypatch):
        self.patterns = []
        monkeypatch.setattr(re2, "compile", self)

    def __call__(self, pattern, options=None):
        self.patterns.append(pattern)
        return _COMPILE(pattern, options)


def hostile(pattern, count=100):
    config = good()
    for number in range(count):
        config.guardrails.add(
            rule_id=f"r{number}", action=tenant_pb2.GUARDRAIL_ACTION_DENY, pattern=pattern(number)
        )
    return config


def fields_of(config):
    return {violation.field for violation in validate_config(config, AROUND)}


def named(count):
    return {f"tenant.config.guardrails[{number}].pattern" for number in range(count)}


def test_patterns_of_many_unicode_classes_are_not_even_compiled(monkeypatch):
    compiles = Compiles(monkeypatch)
    assert fields_of(hostile(lambda number: r"\pL" * (300 + number % 40))) == named(100)
    assert compiles.patterns == []


def test_that_test_notices_a_bound_that_is_gone(monkeypatch):
    compiles = Compiles(monkeypatch)
    careless = mutant(patterns, "if classes > MAX_UNICODE_CLASSES:", "if False:")
    monkeypatch.setattr(guardrails, "check_pattern", careless.check_pattern)
    fields_of(hostile(lambda number: r"\pL" * (300 + number % 40)))
    assert compiles.patterns


@pytest.mark.parametrize("pattern", [r"\pL" * MAX_UNICODE_CLASSES, r"\\pL" * 90, r"\p{Greek}"])
def test_a_class_is_what_a_backslash_makes_one(pattern):
    assert "Unicode classes" not in (patterns.check_pattern(pattern).problem or "")


def large(number):
    return rf"\pL{{{500 + number}}}"


def test_work_for_patterns_that_are_refused_ends(monkeypatch):
    compiles = Compiles(monkeypatch)
    assert fields_of(hostile(large)) == named(100)
    assert len(compiles.patterns) <= MAX_WORK // 5000 + 1


def test_that_test_notices_work_that_nobody_counts(monkeypatch):
    compiles = Compiles(monkeypatch)
    careless = mutant(guardrails, "if work <= MAX_WORK else", "if True else")
    monkeypatch.setattr("services.config.validation.check_guardrails", careless.check_guardrails)
    fields_of(hostile(large))
    assert len(compiles.patterns) == 100


def test_a_hundred_common_mistakes_are_all_looked_at():
    config = hostile(lambda number: f"(forbidden word number {number}")
    problems = {violation.description for violation in validate_config(config, AROUND)}
    assert problems == {"does not compile: missing )"}


class Looks:
    """Counts what the rules look at."""

    def __init__(self, monkeypatch):
        self.lengths = []
        monkeypatch.setattr(
            "services.config.validation.check_models",
            lambda config, *_: self.lengths.append(len(config.models)),
        )


def test_lists_that_are_too_long_are_looked_at_in_part(monkeypatch):
    looks = Looks(monkeypatch)
    found = fields_of(tenant_pb2.TenantConfig(models=[tenant_pb2.ModelAlias()] * 120_000))
    assert "tenant.config.models" in found
    assert looks.lengths == [size.MAX_MODELS]


def test_a_config_that_is_too_large_is_not_looked_at(monkeypatch):
    looks = Looks(monkeypatch)
    found = validate_config(tenant_pb2.TenantConfig(models=[tenant_pb2.ModelAlias()] * 200_000), AROUND)
    assert [violation.field for violation in found] == ["tenant.config"]
    assert looks.lengths == []


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
