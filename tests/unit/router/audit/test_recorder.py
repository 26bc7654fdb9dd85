from __future__ import annotations

import asyncio

import pytest
import rfc8785
from tenantry.config.v1 import tenant_pb2

from services.common.audit.writer import AuditEntry, EntryKind
from services.common.errors import Error, Reason, ResourceExhaustedError, UnavailableError
from services.router.audit import recorder
from services.router.audit.refusals import RefusalLog
from services.router.guardrails.guardrails import denied
from services.router.request.pipeline import Call
from tests.fakes.manual_clock import ManualClock
from tests.fakes.router_config import BASE_MODEL, ConfigWorld, tiny_rendition
from tests.fakes.router_pipeline import PipelineWorld, SimulatedServer, question, received
from tests.fakes.scripted_audit import MemoryAudit

POLICIES = {
    "strict": tenant_pb2.AUDIT_POLICY_BLOCKING_STRICT,
    "blocking": tenant_pb2.AUDIT_POLICY_BLOCKING,
    "batch": tenant_pb2.AUDIT_POLICY_BATCH,
}


def tenants(world: ConfigWorld) -> None:
    for ordinal, (name, policy) in enumerate(POLICIES.items(), start=1):
        alias = tenant_pb2.ModelAlias(alias="chat", base_model=BASE_MODEL, adapter="tone")
        uid = world.tenant(name, ordinal, [alias], audit_policy=policy)
        world.key(uid, f"key-{uid}")
        world.adapter(uid, "tone", 1, tiny_rendition(1))


@pytest.fixture
def world(tmp_path) -> PipelineWorld:
    made = PipelineWorld(tmp_path, SimulatedServer([]), configure=tenants)
    tokeniser = made.state.snapshot().tenants["uid-strict"].targets["chat"].base_model.text.tokeniser
    made.server.answer = tokeniser.encode_prompt("hello world")
    return made


@pytest.fixture
def impatient(monkeypatch) -> None:
    """Waits for entries that do not come end at once."""
    monkeypatch.setattr(recorder, "_BLOCKING_SECONDS", 0.05)
    monkeypatch.setattr(recorder, "_STRICT_SECONDS", 0.05)


@pytest.fixture(autouse=True)
def patient(monkeypatch) -> None:
    monkeypatch.setattr(recorder, "_BLOCKING_SECONDS", 5.0)


async def pair(world: PipelineWorld) -> tuple[AuditEntry, AuditEntry]:
    assert await world.recorder.drain(1.0) == 0
    admit, outcome = world.audit.entries
    assert (admit.kind, outcome.kind) == (EntryKind.ADMIT, EntryKind.OUTCOME)
    assert outcome.admit_record_id == admit.record_id
    assert admit.record_id != outcome.record_id
    return admit, outcome


@pytest.mark.parametrize("name", POLICIES)
async def test_every_answer_has_an_admit_and_an_outcome(world, name):
    exchange = await world.pipeline.run(world.call(f"uid-{name}", "who?", correlation_id="c-1"), None)
    admit, outcome = await pair(world)
    assert admit.tenant_uid == outcome.tenant_uid == f"uid-{name}"
    assert admit.key_id == outcome.key_id == f"key-uid-{name}"
    assert admit.meta["correlation_id"] == "c-1"
    assert admit.meta["adapter"]["version"] == 1
    assert admit.meta["config"]["version"] == 1
    assert admit.prompt == {"messages": [{"role": "user", "content": "who?"}]}
    assert outcome.answer == {"text": "hello world"}
    assert outcome.meta["status"] == "OK"
    assert outcome.meta["finish_reason"] == "END"
    assert outcome.meta["usage"]["output_tokens"] == exchange.generation.output_tokens
    assert admit.meta["request_id"] == outcome.meta["request_id"] == exchange.identified.request_id
    for entry in (admit, outcome):
        rfc8785.dumps(dict(entry.meta))


async def test_receipts_are_there_where_the_policy_waits(world):
    for name, waits in (("strict", True), ("blocking", True), ("batch", False)):
        exchange = await world.pipeline.run(world.call(f"uid-{name}"), None)
        assert (
            (exchange.admitted.admit_receipt is not None) == (exchange.outcome_receipt is not None) == waits
        )


async def test_strict_dispatches_nothing_before_its_admit_is_durable(world):
    world.audit.durable.clear()
    running = asyncio.create_task(world.pipeline.run(world.call("uid-strict"), None))
    for _ in range(50):
        await asyncio.sleep(0)
    assert world.audit.entries
    assert world.server.requests == []
    world.audit.durable.set()
    assert (await running).text == "hello world"


@pytest.mark.parametrize("down", ["refuses", "hangs", "away"])
async def test_without_an_audit_service_each_policy_does_as_it_says(world, impatient, down):
    if down == "refuses":
        world.audit.down = True
    else:
        world.audit.durable.clear()
        world.audit.connected = down == "hangs"
    with pytest.raises(UnavailableError) as error:
        await world.pipeline.run(world.call("uid-strict"), None)
    assert error.value.reason is Reason.AUDIT_UNAVAILABLE
    assert world.server.requests == []
    assert world.leaks() == []
    for name in ("blocking", "batch"):
        exchange = await world.pipeline.run(world.call(f"uid-{name}"), None)
        assert exchange.text == "hello world"
        assert exchange.outcome_receipt is None
    world.audit.durable.set()
    await world.recorder.drain(1.0)


async def test_strict_holds_no_place_while_the_audit_service_is_away(world):
    world.audit.connected = False
    world.audit.durable.clear()
    running = asyncio.create_task(world.pipeline.run(world.call("uid-strict"), None))
    for _ in range(50):
        await asyncio.sleep(0)
    assert world.pool().in_flight == 0
    world.audit.durable.set()
    await running


async def test_strict_gives_no_last_byte_without_its_outcome(world):
    world.server.hold.clear()
    running = asyncio.create_task(world.pipeline.run(world.call("uid-strict"), None))
    await asyncio.wait_for(world.server.begun.wait(), 5)
    world.audit.down = True
    world.server.hold.set()
    with pytest.raises(UnavailableError) as error:
        await running
    assert error.value.reason is Reason.AUDIT_UNAVAILABLE


async def test_a_failure_has_an_outcome_too_with_what_came_before_it(world):
    world.server.fail_after = 1
    with pytest.raises(UnavailableError):
        await world.pipeline.run(world.call("uid-batch"), None)
    _, outcome = await pair(world)
    assert outcome.meta["status"] == "MODEL_SERVER_FAILED"
    assert outcome.meta["usage"]["output_tokens"] == 1
    assert outcome.answer is not None
    assert "hello world".startswith(outcome.answer["text"])


async def test_refusals_are_counted_and_not_written_one_by_one(world):
    for _ in range(5):
        with pytest.raises(Error):
            await world.pipeline.run(world.call("uid-strict", model="none"), None)
    assert world.audit.entries == []
    world.refusals.flush()
    (entry,) = world.audit.entries
    assert entry.kind is EntryKind.REFUSED
    assert sum(count["requests"] for count in entry.meta["refused"]) == 5
    assert {count["reason"] for count in entry.meta["refused"]} == {"MODEL_NOT_FOUND"}


async def test_a_request_shed_from_a_full_queue_leaves_no_admit(world):
    world.config.pool(["server"], concurrent_requests=1, queued_requests=0)
    world.apply(2)
    world.server.hold.clear()
    running = asyncio.create_task(world.pipeline.run(world.call("uid-batch"), None))
    await asyncio.wait_for(world.server.begun.wait(), 5)
    with pytest.raises(Error) as error:
        await world.pipeline.run(world.call("uid-strict"), None)
    assert error.value.reason is Reason.QUEUE_FULL
    world.server.hold.set()
    await running
    await world.recorder.drain(1.0)
    assert {entry.tenant_uid for entry in world.audit.entries} == {"uid-batch"}


async def test_an_unknown_caller_writes_into_nobodys_log(world):
    with pytest.raises(Error):
        await world.pipeline.run(Call(received(question("x")), "Bearer nonsense", 5.0), None)
    world.refusals.flush()
    assert world.audit.entries == []


RATE_LIMITED = ResourceExhaustedError("", metadata={"limit": "limits.requests_per_second"})


def test_a_refusal_is_found_by_its_request_id_and_a_flood_of_them_is_bounded():
    sink = MemoryAudit()
    log = RefusalLog(sink, ManualClock())
    for number in range(1000):
        log.count("a", "k", f"id-{number}", RATE_LIMITED)
    log.count("a", "k", "by-a-rule", denied("no-secrets"))
    log.flush()
    (entry,) = sink.entries
    by_rule, flood = entry.meta["refused"]
    assert (by_rule["rule_id"], by_rule["request_ids"]) == ("no-secrets", ["by-a-rule"])
    assert (flood["limit"], flood["requests"]) == ("limits.requests_per_second", 1000)
    assert flood["request_ids"] == [f"id-{number}" for number in range(16)]


def test_refusals_are_one_entry_a_tenant_and_bounded(monkeypatch):
    monkeypatch.setattr("services.router.audit.refusals._MAX_COUNTS", 3)
    clock, sink = ManualClock(), MemoryAudit()
    log = RefusalLog(sink, clock)
    for tenant_uid, key_id in (("a", "1"), ("a", "1"), ("a", "2"), ("b", "3")):
        log.count(tenant_uid, key_id, "id", RATE_LIMITED)
    assert sink.entries == []
    clock.advance(1)
    log.count("b", "3", "id", RATE_LIMITED)
    assert [entry.tenant_uid for entry in sink.entries] == ["a", "b"]
    assert [count["requests"] for count in sink.entries[0].meta["refused"]] == [2, 1]
