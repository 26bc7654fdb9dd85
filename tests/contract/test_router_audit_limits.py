"""No request the router lets through makes an entry that the audit service refuses."""

from __future__ import annotations

import pytest
from tenantry.config.v1 import tenant_pb2
from tenantry.inference.v1 import inference_service_pb2 as pb

from services.audit.rpc import intake
from services.common.audit.writer import AuditEntry, AuditWriter, EntryKind
from services.common.errors import InvalidArgumentError, Reason, ResourceExhaustedError
from services.common.request_ids import new_request_id
from services.common.request_sizes import MAX_INPUT_BYTES
from services.common.rpc.channel import open_channel
from services.config.rules.models import MAX_PROMPT_BYTES
from services.router.audit import entry_sections, recorder
from services.router.audit.refusals import RefusalLog
from tests.fakes.manual_clock import ManualClock
from tests.fakes.mutants import replaced
from tests.fakes.router_config import ConfigWorld
from tests.fakes.router_pipeline import PipelineWorld, SimulatedServer
from tests.fakes.scripted_audit import MemoryAudit

CONTROL = "\x01"
"""Six bytes in JSON."""
METADATA = {f"{CONTROL * 62}{place:02}": CONTROL * 512 for place in range(16)}
STOPS = [f"{CONTROL * 254}{place:02}" for place in range(16)]


def tenants(world: ConfigWorld) -> None:
    world.base_model(context_tokens=1 << 20)
    world.pool(["server"], kv_tokens=1 << 21)
    limits = tenant_pb2.Limits(input_bytes=4 << 20)
    uid = world.tenant("acme", 7, limits=limits, audit_policy=tenant_pb2.AUDIT_POLICY_BATCH)
    world.key(uid, f"key-{uid}")


@pytest.fixture
def world(tmp_path) -> PipelineWorld:
    return PipelineWorld(tmp_path, SimulatedServer([ord("a")]), configure=tenants)


def taken(entry: AuditEntry) -> bool:
    """Whether the audit service takes an entry in the form the router's writer gives it."""
    kept = AuditWriter(open_channel("unix:/nobody"), "router")._keep(entry)
    assert kept is not None
    try:
        intake.parse_entry(kept.message)
    except InvalidArgumentError:
        return False
    return True


REQUESTS = {
    "metadata and stop sequences of control characters": {
        "client_metadata": METADATA,
        "parameters": pb.SamplingParameters(stop_sequences=STOPS),
    },
    "a prompt that doubles in JSON": {"text": "\n" * 600_000},
}


async def unrecorded(world: PipelineWorld, fields: dict) -> bool:
    """Whether a request was let through whose entries the audit service refuses."""
    try:
        await world.pipeline.run(world.call("uid-acme", **fields), None)
    except InvalidArgumentError:
        assert world.leaks() == []
        return False
    await world.recorder.drain(1.0)
    return not all(taken(entry) for entry in world.audit.entries)


@pytest.mark.parametrize("name", REQUESTS)
async def test_nobody_goes_unrecorded_by_being_too_large_for_the_log(world, name):
    assert not await unrecorded(world, REQUESTS[name])


@pytest.mark.parametrize("name", REQUESTS)
async def test_that_test_notices_a_missing_check(world, name):
    unchecked = replaced(recorder, "check_entry_sizes", lambda shaped: None)
    world.pipeline._audit = world.recorder = unchecked.AuditRecorder(world.audit)
    assert await unrecorded(world, REQUESTS[name])


async def test_the_largest_request_the_contract_names_is_taken(world):
    parameters = pb.SamplingParameters(stop_sequences=["ü" * 256] * 16)
    metadata = {f"{'k' * 62}{place:02}": "日" * 512 for place in range(16)}
    await world.pipeline.run(
        world.call("uid-acme", "x" * 500_000, parameters=parameters, client_metadata=metadata), None
    )
    await world.recorder.drain(1.0)
    assert [entry.kind for entry in world.audit.entries] == [EntryKind.ADMIT, EntryKind.OUTCOME]
    assert all(taken(entry) for entry in world.audit.entries)


def longest_request(world: PipelineWorld, text: str):
    """As much text as a tenant may be allowed, in as many turns as the contract takes, beside the longest prompt."""
    config = world.config.resources["tenants/uid-acme"].tenant.config
    config.system_prompt = CONTROL * MAX_PROMPT_BYTES
    world.apply(2)
    turns = 4096
    said = [text[place * len(text) // turns : (place + 1) * len(text) // turns] for place in range(turns)]
    messages = [pb.Message(role=pb.ROLE_ASSISTANT, content=[pb.ContentPart(text=part)]) for part in said]
    return world.call("uid-acme", timeout_seconds=60, conversation=pb.Conversation(messages=messages))


async def test_the_most_text_that_a_tenant_may_be_allowed_is_taken(world):
    await world.pipeline.run(longest_request(world, "x" * MAX_INPUT_BYTES), None)
    await world.recorder.drain(1.0)
    assert [entry.kind for entry in world.audit.entries] == [EntryKind.ADMIT, EntryKind.OUTCOME]
    assert all(taken(entry) for entry in world.audit.entries)


@pytest.mark.parametrize(
    "text", ["x" * (MAX_INPUT_BYTES + 1), '"' * MAX_INPUT_BYTES], ids=["longer", "escaped"]
)
async def test_what_is_too_long_is_refused_with_one_reason_and_one_field(world, text):
    with pytest.raises(InvalidArgumentError) as error:
        await world.pipeline.run(longest_request(world, text), None)
    assert error.value.reason is Reason.INVALID_FIELD
    assert [violation.field for violation in error.value.violations] == ["conversation"]


async def test_an_answer_too_large_for_the_log_is_cut_there(world):
    exchange = await world.pipeline.run(world.call("uid-acme"), None)
    exchange.generation.text_parts = ['"\n' * 500_000]
    answer = entry_sections.answer_section(exchange)
    assert answer is not None
    assert answer["cut"]
    assert exchange.generation.text.startswith(answer["text"])
    assert taken(AuditEntry("uid-acme", EntryKind.ADMIT, {}, answer=answer))
    exchange.generation.text_parts = ["x" * 1_000_000]
    assert entry_sections.answer_section(exchange) == {"text": "x" * 1_000_000}


async def test_refusals_of_any_number_of_keys_are_taken():
    sink = MemoryAudit()
    log = RefusalLog(sink, ManualClock())
    longest = ResourceExhaustedError(
        "", reason=Reason.CONCURRENCY_LIMITED, metadata={"rule_id": "r" * 63, "limit": "l" * 63}
    )
    for key in range(3000):
        for _ in range(20):
            log.count("uid-acme", f"{key:064}", new_request_id(), longest)
    log.flush()
    assert all(taken(entry) for entry in sink.entries)
    assert sum(len(entry.meta["refused"]) for entry in sink.entries) == 3000
