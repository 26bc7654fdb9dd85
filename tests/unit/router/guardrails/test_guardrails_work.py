"""The cost of guardrails: nothing before first use, bounded memory, and one thread for each tenant."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import pytest
from tenantry.config.v1 import tenant_pb2
from tenantry.inference.v1 import inference_service_pb2 as pb

from services.common.clock import SystemClock
from services.router import tenant_threads
from services.router.guardrails import guardrails as guardrails_module
from services.router.guardrails import pattern_cache, pattern_sets
from services.router.guardrails.guardrails import Guardrails
from services.router.snapshot.model import PriorityRules
from services.router.snapshot.tenant_rules import guardrail_rules, priority_rules
from tests.fakes.mutants import changed
from tests.fakes.router_config import BASE_MODEL, ConfigWorld
from tests.fakes.router_pipeline import PipelineWorld, SimulatedServer


def rules(*patterns: str) -> list[tenant_pb2.GuardrailRule]:
    return [
        tenant_pb2.GuardrailRule(
            rule_id=f"r{place}", action=tenant_pb2.GUARDRAIL_ACTION_DENY, pattern=pattern
        )
        for place, pattern in enumerate(patterns)
    ]


def configure(world: ConfigWorld) -> None:
    alias = tenant_pb2.ModelAlias(alias="chat", base_model=BASE_MODEL)
    for ordinal, (name, patterns) in enumerate(
        {"a": ["x1", "x2"], "same": ["x1", "x2"], "other": ["x1"], "low": []}.items(), start=1
    ):
        priorities = tenant_pb2.PriorityRules(max_priority=1) if name == "low" else None
        uid = world.tenant(name, ordinal, [alias], guardrails=rules(*patterns), priorities=priorities)
        world.key(uid, f"key-{uid}")


@pytest.fixture
def world(tmp_path) -> PipelineWorld:
    return PipelineWorld(tmp_path, SimulatedServer([5]), configure=configure)


def compiled_by(monkeypatch, module=guardrails_module) -> list[list[str]]:
    made: list[list[str]] = []

    def counting(patterns):
        made.append(list(patterns))
        return pattern_sets.compile_patterns(patterns)

    monkeypatch.setattr(module, "compile_patterns", counting)
    return made


async def test_nothing_is_compiled_before_its_first_use_and_then_once_for_all(world, monkeypatch):
    made = compiled_by(monkeypatch)
    world.apply(2)
    assert made == []
    await asyncio.gather(*(world.pipeline.run(world.call("uid-a"), None) for _ in range(20)))
    await world.pipeline.run(world.call("uid-same"), None)
    assert made == [["x1", "x2"]]
    world.apply(3)
    await world.pipeline.run(world.call("uid-a"), None)
    assert len(made) == 1
    await world.pipeline.run(world.call("uid-other"), None)
    assert len(made) == 2


async def others_sets_lost(world, monkeypatch, module) -> int:
    """How often another tenant's patterns are compiled again beside a tenant that changes its own all the time."""
    made = compiled_by(monkeypatch, module)
    guards = module.Guardrails(SystemClock(), kept_bytes=40_000)
    held = world.state.snapshot().tenants
    restless, other = held["uid-a"], held["uid-other"]
    for number in range(20):
        config = tenant_pb2.TenantConfig(guardrails=rules(f"y{number}"))
        changing = replace(restless, guardrails=guardrail_rules(config))
        await guards.check_input(changing, ["hello"])
        await guards.check_input(other, ["hello"])
    guards.close()
    return made.count(["x1"]) - 1


async def test_a_tenant_that_changes_its_patterns_loses_its_own(world, monkeypatch):
    assert await others_sets_lost(world, monkeypatch, guardrails_module) == 0


async def test_that_test_notices_a_cache_without_shares(world, monkeypatch):
    careless = changed(
        pattern_cache, "the-heaviest-loses", "heaviest = next(iter(sorted(able, reverse=True)))"
    )
    monkeypatch.setattr(guardrails_module, "PatternCache", careless.PatternCache)
    assert await others_sets_lost(world, monkeypatch, guardrails_module) > 0


async def compiled_beside_a_queue(world, monkeypatch, module, patience_seconds: float) -> bool:
    """Whether a tenant's patterns are compiled before the many that another tenant has asked for."""
    guards, go, begun = module.Guardrails(SystemClock()), threading.Event(), threading.Event()
    order: list[str] = []

    def waiting(patterns):
        begun.set()
        go.wait(5)
        order.append(patterns[0])
        return pattern_sets.compile_patterns(patterns)

    monkeypatch.setattr(module, "compile_patterns", waiting)
    held = world.state.snapshot().tenants
    greedy = [
        replace(
            held["uid-a"],
            guardrails=guardrail_rules(tenant_pb2.TenantConfig(guardrails=rules(f"y{number}"))),
        )
        for number in range(8)
    ]
    tasks = [asyncio.create_task(guards.check_input(tenant, ["hello"])) for tenant in greedy]
    await asyncio.to_thread(begun.wait, patience_seconds)
    tasks.append(asyncio.create_task(guards.check_input(held["uid-other"], ["hello"])))
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(*tasks)
    guards.close()
    return order.index("x1") <= 1


async def test_a_tenant_waits_for_one_set_of_another_at_most(world, monkeypatch):
    assert await compiled_beside_a_queue(world, monkeypatch, guardrails_module, 5)


async def test_that_test_notices_patterns_compiled_in_order_of_arrival(world, monkeypatch):
    careless = changed(
        guardrails_module,
        "turns-for-compiling",
        "patterns = await asyncio.wrap_future(self._compiler._threads.submit(compiled))",
    )
    assert not await compiled_beside_a_queue(world, monkeypatch, careless, 5)


async def test_a_caller_that_leaves_while_patterns_compile_takes_nothing_from_the_next(world, monkeypatch):
    guards, go = Guardrails(SystemClock()), threading.Event()

    def waiting(patterns):
        go.wait(5)
        return pattern_sets.compile_patterns(patterns)

    monkeypatch.setattr(guardrails_module, "compile_patterns", waiting)
    tenant = world.state.snapshot().tenants["uid-a"]
    first, second = (asyncio.create_task(guards.check_input(tenant, ["x2"])) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    go.set()
    assert (await second).denied_by == "r1"
    assert first.cancelled()
    assert guards._compiling == {}
    guards.close()


class Searches:
    """Searches that end when the test lets them."""

    def __init__(self, monkeypatch, module) -> None:
        self.go = threading.Event()
        self.begun = {b"greedy": threading.Event(), b"modest": threading.Event()}
        self.running: list[bytes] = []
        monkeypatch.setattr(module, "find", self._find)
        monkeypatch.setattr(module, "_IN_PLACE_STEPS", -1)

    def _find(self, patterns, texts):
        self.running += texts
        self.begun[texts[0]].set()
        self.go.wait(5)
        return [patterns.matching(text) for text in texts]


async def running_at_once(world, monkeypatch, module, patience_seconds: float) -> list[bytes]:
    """One tenant with more long searches than there are threads, half of them left by their callers; then another."""
    guards = module.Guardrails(SystemClock())
    held = world.state.snapshot().tenants
    for name in ("uid-a", "uid-other"):
        await guards.check_input(held[name], ["compile"])
    searches = Searches(monkeypatch, module)
    greedy = [asyncio.create_task(guards.check_input(held["uid-a"], ["greedy"])) for _ in range(9)]
    await asyncio.to_thread(searches.begun[b"greedy"].wait, 5)
    for task in greedy[:5]:
        task.cancel()
    modest = asyncio.create_task(guards.check_input(held["uid-other"], ["modest"]))
    await asyncio.to_thread(searches.begun[b"modest"].wait, patience_seconds)
    seen = sorted(searches.running)
    searches.go.set()
    await asyncio.gather(*greedy, modest, return_exceptions=True)
    guards.close()
    return seen


async def test_a_tenant_has_one_long_search_at_a_time_even_when_its_callers_leave(world, monkeypatch):
    assert await running_at_once(world, monkeypatch, guardrails_module, 5) == [b"greedy", b"modest"]


@pytest.mark.parametrize(
    ("rule", "instead"),
    [
        ("one-turn-a-tenant", "pass"),
        (
            "turn-outlasts-its-caller",
            "try:\n    return await asyncio.wrap_future(running)\nfinally:\n    turn.release()",
        ),
    ],
    ids=["no turns", "turns end with their callers"],
)
async def test_that_test_notices_a_tenant_that_takes_more(world, monkeypatch, rule, instead):
    careless = changed(tenant_threads, rule, instead)
    monkeypatch.setattr(guardrails_module, "TenantThreads", careless.TenantThreads)
    assert (await running_at_once(world, monkeypatch, guardrails_module, 0.2)).count(b"greedy") > 1


async def judged_while_all_threads_search(world, module, patience_seconds: float) -> bool:
    """Whether a short text under patterns not used before is judged while every thread has a long search."""
    guards, go = module.Guardrails(SystemClock()), threading.Event()
    for _ in range(module._THREADS):
        guards._threads._threads.submit(go.wait, 30)
    tenant = world.state.snapshot().tenants["uid-a"]
    try:
        async with asyncio.timeout(patience_seconds):
            return bool((await guards.check_input(tenant, ["x2"])).denied_by == "r1")
    except TimeoutError:
        return False
    finally:
        go.set()
        guards.close()


async def test_slow_searches_of_several_tenants_hold_up_no_short_one(world):
    assert await judged_while_all_threads_search(world, guardrails_module, 20)


async def test_that_test_notices_patterns_that_compile_where_others_search(world):
    careless = changed(
        guardrails_module,
        "turns-for-compiling",
        "patterns = await self._threads.run(tenant_uid, compiled)",
    )
    assert not await judged_while_all_threads_search(world, careless, 0.2)


async def test_a_long_text_is_searched_off_the_loop_and_a_short_one_in_place(world, monkeypatch):
    threads: list[str] = []

    def looking(patterns, texts):
        threads.append(threading.current_thread().name)
        return [patterns.matching(text) for text in texts]

    monkeypatch.setattr(guardrails_module, "find", looking)
    await world.pipeline.run(world.call("uid-a", "short"), None)
    assert threads == [threading.current_thread().name] * 2
    found = await world.pipeline._guardrails.check_input(
        world.state.snapshot().tenants["uid-a"], ["long " * 20_000 + "x2"]
    )
    assert found.denied_by == "r1"
    assert threads[-1].startswith("guard")


@pytest.mark.parametrize(
    ("action", "stage", "denies", "stages"),
    [(1, 0, True, "io"), (2, 1, False, "i"), (2, 2, False, "o"), (99, 1, True, "i"), (2, 99, False, "io")],
)
def test_what_a_newer_config_service_adds_is_the_strictest(action, stage, denies, stages):
    config = tenant_pb2.TenantConfig(guardrails=[tenant_pb2.GuardrailRule(rule_id="r", pattern="x")])
    config.guardrails[0].action, config.guardrails[0].stage = action, stage
    compiled = guardrail_rules(config)
    assert ("i" if compiled.input.rules else "") + ("o" if compiled.output.rules else "") == stages
    assert {rule.denies for rule in (*compiled.input.rules, *compiled.output.rules)} == {denies}


@pytest.mark.parametrize(
    ("given", "effective"),
    [
        ({}, PriorityRules(2, 3)),
        ({"max_priority": 1}, PriorityRules(1, 1)),
        ({"default_priority": 3, "max_priority": 2}, PriorityRules(2, 2)),
        ({"default_priority": 1}, PriorityRules(1, 3)),
    ],
)
def test_priorities_have_defaults_and_give_way_to_the_maximum(given, effective):
    assert priority_rules(tenant_pb2.PriorityRules(**given)) == effective


@pytest.mark.parametrize(
    ("name", "wanted", "ranked"), [("a", 0, 2), ("a", 1, 1), ("a", 3, 3), ("low", 0, 1), ("low", 3, 1)]
)
async def test_a_request_is_ranked_within_its_tenants_rules(world, name, wanted, ranked):
    exchange = await world.pipeline.run(
        world.call(f"uid-{name}", priority=pb.Priority.ValueType(wanted)), None
    )
    assert exchange.shaped.shape.priority == ranked
