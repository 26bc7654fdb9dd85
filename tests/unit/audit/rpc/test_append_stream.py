"""An append stream keeps order and settlement, has refusals of its own, and bounds the entries under way."""

from __future__ import annotations

import asyncio

import pytest
from tenantry.audit.v1 import entry_pb2

from services.audit.proofs.entry import EntryKind
from services.audit.rpc import ack_queue, append_servicer, appender
from services.common.errors import Reason
from services.common.rpc.status import from_status
from tests.fakes.audit_service import append_entry
from tests.unit.audit.audit_state import entries_of, new_entry
from tests.unit.audit.rpc.append_streams import PLENTY_SECONDS, Stream, service_on

OUTCOME = entry_pb2.ENTRY_KIND_OUTCOME


def reason_of(ack) -> Reason:
    return from_status(ack.error).reason


async def kinds_of(service, tenant_uid):
    return await service.appender.with_store(
        lambda store: [entry.header.kind for entry in entries_of(store, tenant_uid)][2:]
    )


async def test_a_sequence_is_promised_only_once_its_entry_is_durable(tmp_path, monkeypatch):
    async with service_on(tmp_path) as service:
        begun, go_on = asyncio.Event(), asyncio.Event()
        loop, commit = asyncio.get_running_loop(), service.store.commit

        def held(*arguments):
            loop.call_soon_threadsafe(begun.set)
            asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(PLENTY_SECONDS)
            return commit(*arguments)

        monkeypatch.setattr(service.store, "commit", held)
        stream = await Stream(service).open()
        stream.send(append_entry(1, "a"))
        acked = asyncio.create_task(stream.until(1))
        async with asyncio.timeout(PLENTY_SECONDS):
            await begun.wait()
        session = service.servicer._sessions[stream.session_id]
        assert session.durable_sequence == 0
        go_on.set()
        await acked
        assert session.durable_sequence == 1
        await stream.close()


async def test_a_resent_sequence_is_its_entry_over_streams_and_starts(tmp_path):
    entries = [append_entry(number, "a") for number in (1, 2, 3)]
    async with service_on(tmp_path) as service:
        stream = await Stream(service).open()
        stream.send(entries[0], entries[2])
        first = await stream.until(1, 3)
        await stream.close()
        again = await Stream(service, stream.session_id).open()
        again.send(*entries)
        assert [ack.receipt.index for ack in await again.until(1, 3)] == [ack.receipt.index for ack in first]
        await again.close()
    async with service_on(tmp_path) as service:
        assert service.store.sessions[stream.session_id].sequence == 3
        late = await Stream(service, stream.session_id).open()
        assert late.welcome.durable_sequence == 3
        late.send(*entries, append_entry(2, "a"))
        acks = await late.until(1, 2, 3)
        assert acks[0].receipt.index == first[0].receipt.index
        await late.finish()
        assert (
            reason_of(late.acks[2]) is Reason.RECORD_CONFLICT
        )  # the last one: another record of that sequence
        assert len(await kinds_of(service, "a")) == 3


async def test_an_outcome_waits_while_its_admit_finds_the_queue_full(tmp_path, monkeypatch):
    admit = append_entry(1, "a", "x" * 100)
    outcome = append_entry(2, "a", "x", kind=OUTCOME, admit_record_id=admit.record_id)
    async with service_on(tmp_path, started=False) as service:
        monkeypatch.setattr(appender, "MAX_TENANT_WAITING_BYTES", 60)
        stream = await Stream(service).open()
        stream.send(admit, outcome)
        assert [reason_of(ack) for ack in await stream.until(1, 2)] == [Reason.QUEUE_FULL] * 2
        monkeypatch.setattr(appender, "MAX_TENANT_WAITING_BYTES", 1 << 20)
        service.start()
        stream.acks.clear()
        stream.send(admit, outcome)
        assert all(ack.HasField("receipt") for ack in await stream.until(1, 2))
        assert await kinds_of(service, "a") == [EntryKind.ADMIT, EntryKind.OUTCOME]
        await stream.close()


async def test_that_test_notices_outcomes_that_do_not_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(append_servicer, "_check_order", lambda *_: None)
    admit = append_entry(1, "a", "x" * 100)
    outcome = append_entry(2, "a", "x", kind=OUTCOME, admit_record_id=admit.record_id)
    async with service_on(tmp_path) as service:
        monkeypatch.setattr(appender, "MAX_TENANT_WAITING_BYTES", 60)
        stream = await Stream(service).open()
        stream.send(admit, outcome)
        await stream.until(1, 2)
        assert await kinds_of(service, "a") == [EntryKind.OUTCOME]
        await stream.close()


async def test_the_outcome_of_an_admit_that_was_refused_for_good_is_refused_too(tmp_path):
    admit = append_entry(1, "a", meta_json=b"{ }")
    outcome = append_entry(2, "a", kind=OUTCOME, admit_record_id=admit.record_id)
    other = append_entry(3, "a", kind=OUTCOME, admit_record_id=b"o" * 16)
    async with service_on(tmp_path) as service:
        stream = await Stream(service).open()
        stream.send(admit, outcome, other)
        refused, dependent, independent = await stream.until(1, 2, 3)
        assert (reason_of(refused), reason_of(dependent)) == (Reason.INVALID_FIELD, Reason.INVALID_FIELD)
        assert independent.HasField("receipt")
        await stream.close()


async def test_a_damaged_log_is_its_own_tenants_refusal(tmp_path):
    async with service_on(tmp_path) as service:
        stream = await Stream(service).open()
        stream.send(append_entry(1, "a"), append_entry(2, "b"))
        await stream.until(1, 2)
        await service.appender.with_store(lambda store: store.logs.quarantine("a", "a secret reason"))
        stream.send(append_entry(3, "a"), append_entry(4, "b"))
        refused, durable = await stream.until(3, 4)
        assert reason_of(refused) is Reason.LOG_DAMAGED
        assert "secret" not in refused.error.message
        assert durable.HasField("receipt")
        await stream.close()


async def test_a_writer_that_takes_no_acks_is_read_no_further(tmp_path, monkeypatch):
    monkeypatch.setattr(ack_queue, "MAX_UNDER_WAY", 8)
    async with service_on(tmp_path) as service:
        stream = await Stream(service).open()
        stream.send(*(append_entry(number, "a") for number in range(1, 31)))
        await stream.until(1)
        sizes = []
        for _ in range(3):
            sizes.append(len(await kinds_of(service, "a")))
        assert max(sizes) <= 8 + len(stream.acks)
        await stream.until(*range(1, 31))
        assert len(await kinds_of(service, "a")) == 30
        await stream.close()


@pytest.mark.parametrize("lowest", [0, 50_000])
async def test_holes_below_what_a_writer_will_send_are_forgotten(tmp_path, lowest):
    async with service_on(tmp_path) as service:
        stream = await Stream(service).open()
        stream.send(*(append_entry(2 * number, "a") for number in range(1, 6)))
        await stream.until(10)
        await stream.close()
        session = service.servicer._sessions[stream.session_id]
        assert len(session.settled.ranges) == 5
        again = await Stream(service, stream.session_id, lowest_unsettled_sequence=lowest).open()
        assert len(session.settled.ranges) == (0 if lowest else 5)
        assert again.welcome.durable_sequence == max(lowest - 1, 0)
        await again.close()


async def test_a_session_that_leaves_holes_without_end_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(append_servicer, "MAX_RANGES", 3)
    async with service_on(tmp_path) as service:
        stream = await Stream(service).open()
        stream.send(*(append_entry(2 * number, "a") for number in range(1, 5)))
        await stream.until(2, 4, 6, 8)
        stream.send(append_entry(20, "a"))
        with pytest.raises(Exception, match="sequence"):
            await stream.finish()


async def test_only_two_logs_are_begun_for_one_batch_and_every_tenant_has_its_turn(tmp_path):
    tenants = [f"tenant-{number}" for number in range(11)]
    async with service_on(tmp_path, started=False) as service:
        for tenant_uid in tenants * 2:
            service.appender.submit(new_entry(tenant_uid))
        batches = []
        while batch := service.appender._take():
            batches.append([item.entry.tenant_uid for item in batch])
            await service.appender.with_store(
                lambda store, begun=set(batches[-1]): [store.log(one, create=True) for one in sorted(begun)]
            )
        places = range(0, len(tenants), 2)
        assert [set(batch) for batch in batches] == [set(tenants[place : place + 2]) for place in places]
        assert service.appender._waiting_bytes == 0
