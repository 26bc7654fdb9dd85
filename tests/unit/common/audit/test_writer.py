"""Every wait for an audit entry ends, also when other entries, the writer or the service fail."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from tenantry.audit.v1 import audit_append_service_pb2 as pb
from tenantry.audit.v1 import audit_append_service_pb2_grpc as rpc
from tenantry.audit.v1 import entry_pb2

from services.common.audit import writer as writer_module
from services.common.audit.writer import AuditEntry, AuditUnavailableError, AuditWriter, EntryKind
from services.common.errors import FailedPreconditionError, Reason, ResourceExhaustedError
from services.common.rpc.channel import open_channel
from services.common.rpc.status import to_status
from tests.fakes.mutants import without

PLENTY_SECONDS = 10.0


class HeldAuditService(rpc.AuditAppendServiceServicer):
    """Takes entries and answers when a test says so."""

    def __init__(self) -> None:
        self.hellos: list[pb.SessionHello] = []
        self.entries: asyncio.Queue[entry_pb2.AppendEntry] = asyncio.Queue()
        self.answers: asyncio.Queue[pb.Ack | None] = asyncio.Queue()
        self.streams = 0

    async def Append(self, request_iterator, context):
        self.hellos.append((await anext(request_iterator)).hello)
        self.streams += 1
        yield pb.AppendResponse(welcome=pb.SessionWelcome())
        reader = asyncio.create_task(self._read(request_iterator))
        try:
            while (ack := await self.answers.get()) is not None:
                yield pb.AppendResponse(acks=pb.AckBatch(acks=[ack]))
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _read(self, requests):
        async for request in requests:
            for entry in request.batch.entries:
                self.entries.put_nowait(entry)

    async def take(self, count: int) -> list[entry_pb2.AppendEntry]:
        async with asyncio.timeout(PLENTY_SECONDS):
            return [await self.entries.get() for _ in range(count)]

    def ack(self, entry: entry_pb2.AppendEntry) -> None:
        receipt = entry_pb2.Receipt(log_id="log", index=entry.sequence, leaf_hash=b"l" * 32)
        self.answers.put_nowait(pb.Ack(sequence=entry.sequence, receipt=receipt))

    def refuse(self, entry: entry_pb2.AppendEntry, error) -> None:
        self.answers.put_nowait(pb.Ack(sequence=entry.sequence, error=to_status(error)))

    def break_stream(self) -> None:
        self.answers.put_nowait(None)


@pytest.fixture
async def service(tmp_path):
    held = HeldAuditService()
    server = grpc.aio.server()
    rpc.add_AuditAppendServiceServicer_to_server(held, server)
    held.target = f"unix:{tmp_path}/a.sock"
    server.add_insecure_port(held.target)
    await server.start()
    held.stop = lambda: server.stop(None)
    yield held
    await server.stop(None)


@pytest.fixture
async def channel(service):
    async with open_channel(service.target) as opened:
        yield opened


def entry(number: int = 0) -> AuditEntry:
    return AuditEntry("a", EntryKind.ADMIT, {"number": number})


def append(writer, number: int = 0, timeout_seconds: float = PLENTY_SECONDS) -> asyncio.Task:
    return asyncio.create_task(writer.append(entry(number), timeout_seconds))


def sequences(entries) -> list[int]:
    return [one.sequence for one in entries]


async def end_of(waiters) -> list:
    async with asyncio.timeout(PLENTY_SECONDS):
        return await asyncio.gather(*waiters, return_exceptions=True)


async def test_a_cancelled_waiter_leaves_the_others_and_its_own_entry_alone(service, channel):
    async with AuditWriter(channel, "w") as writer:
        waiters = [append(writer, number) for number in range(3)]
        sent = await service.take(3)
        waiters[1].cancel()
        await asyncio.wait([waiters[1]])
        for one in sent:
            service.ack(one)
        first, cancelled, last = await end_of(waiters)
        assert (first.index, last.index) == (1, 3)
        assert isinstance(cancelled, asyncio.CancelledError)
        assert await writer.flush(PLENTY_SECONDS) == 0


async def test_a_refusal_is_its_own_waiters_only(service, channel):
    async with AuditWriter(channel, "w") as writer:
        waiters = [append(writer, number) for number in range(2)]
        bad, good = await service.take(2)
        service.refuse(bad, FailedPreconditionError("used", reason=Reason.RECORD_CONFLICT))
        service.ack(good)
        refused, receipt = await end_of(waiters)
        assert isinstance(refused, FailedPreconditionError)
        assert refused.reason is Reason.RECORD_CONFLICT
        assert receipt.index == 2


async def test_what_found_the_queue_full_is_sent_again_later_and_in_order(service, channel, monkeypatch):
    # Long enough for all three refusals to arrive before the first is sent again, also on a busy machine.
    monkeypatch.setattr(writer_module, "RESEND_SECONDS", 1.0)
    async with AuditWriter(channel, "w") as writer:
        waiters = [append(writer, number) for number in range(4)]
        one, two, three, four = await service.take(4)
        for full in (four, two, three):
            service.refuse(full, ResourceExhaustedError("full", reason=Reason.QUEUE_FULL))
        service.ack(one)
        assert (await waiters[0]).index == 1
        again = await service.take(3)
        assert sequences(again) == [2, 3, 4]
        for resent in again:
            service.ack(resent)
        assert [receipt.index for receipt in await end_of(waiters)] == [1, 2, 3, 4]


async def test_after_a_broken_stream_everything_unsettled_is_sent_again_in_order(service, channel):
    async with AuditWriter(channel, "w") as writer:
        waiters = [append(writer, number) for number in range(4)]
        sent = await service.take(4)
        service.ack(sent[1])
        await asyncio.wait([waiters[1]])
        service.break_stream()
        again = await service.take(3)
        assert (service.streams, sequences(again)) == (2, [1, 3, 4])
        assert [hello.lowest_unsettled_sequence for hello in service.hellos] == [1, 1]
        assert [one.record_id for one in again] == [sent[place].record_id for place in (0, 2, 3)]
        for resent in again:
            service.ack(resent)
        assert [receipt.index for receipt in await end_of(waiters)] == [1, 2, 3, 4]


async def test_a_writer_says_from_which_sequence_on_it_may_send_again(service, channel):
    async with AuditWriter(channel, "w") as writer:
        waiters = [append(writer, number) for number in range(3)]
        one, two, _ = await service.take(3)
        service.ack(one)
        service.refuse(two, FailedPreconditionError("used", reason=Reason.RECORD_CONFLICT))
        await asyncio.wait(waiters[:2])
        service.break_stream()
        (last,) = await service.take(1)
        assert service.hellos[-1].lowest_unsettled_sequence == last.sequence == 3
        service.ack(last)


@pytest.mark.parametrize("waits", [True, False])
async def test_entries_there_was_no_room_for_are_told_of_as_a_gap(service, channel, monkeypatch, waits):
    """A BLOCKING tenant's request goes on without its entry: the log has to show that one is missing."""
    monkeypatch.setattr(writer_module, "MAX_KEPT_ENTRIES", 4)
    async with AuditWriter(channel, "w") as writer:
        waiters = [append(writer, number) for number in range(2)]
        sent = await service.take(2)
        for _ in range(3):
            if waits:
                with pytest.raises(AuditUnavailableError):
                    await writer.append(entry(), PLENTY_SECONDS)
            else:
                assert not writer.append_soon(entry())
        for one in sent:
            service.ack(one)
        (gap,) = await service.take(1)
        assert (gap.tenant_uid, gap.kind) == ("a", EntryKind.GAP)
        assert gap.meta_json == b'{"dropped":3,"writer":"w"}'
        service.ack(gap)
        await end_of(waiters)


async def test_a_lost_service_is_a_typed_error_by_the_deadline_and_the_entry_is_still_sent(service, channel):
    async with AuditWriter(channel, "w") as writer:
        waiter = append(writer, timeout_seconds=0.2)
        (sent,) = await service.take(
            1
        )  # it has the entry and never answers, so it is unknown whether the entry is durable
        (end,) = await end_of([waiter])
        assert isinstance(end, AuditUnavailableError)
        assert end.reason is Reason.AUDIT_UNAVAILABLE
        assert await writer.flush(0) == 1
        service.break_stream()
        (again,) = await service.take(1)
        assert again == sent
        service.ack(again)
        assert await writer.flush(PLENTY_SECONDS) == 0


async def test_with_nobody_listening_every_waiter_hears_by_its_deadline(tmp_path):
    async with open_channel(f"unix:{tmp_path}/nobody.sock") as channel:
        writer = AuditWriter(channel, "w")
        running = asyncio.create_task(writer.run())
        ends = await end_of([append(writer, number, timeout_seconds=0.1) for number in range(3)])
        assert {type(end) for end in ends} == {AuditUnavailableError}
        running.cancel()
        await end_of([running])


async def hung_waiters(writer, service, end_writer) -> list[asyncio.Task]:
    """Waiters that hear nothing of the end of their writer."""
    running = asyncio.create_task(writer.run())
    waiters = [append(writer, number) for number in range(3)]
    await service.take(3)
    end_writer(writer, running)
    await asyncio.wait([running])
    _, hung = await asyncio.wait(waiters, timeout=1.5)
    for waiter in hung:
        waiter.cancel()
    ends = [waiter.exception() for waiter in waiters if waiter not in hung]
    assert all(isinstance(end, AuditUnavailableError) for end in ends)
    assert running.cancelled() or isinstance(running.exception(), RuntimeError)
    await end_of(hung)
    return list(hung)


def cancel(writer, running):
    running.cancel()


def break_sender(writer, running):
    def fail():
        raise RuntimeError

    writer._note_gaps = fail
    writer._unsent.set()


@pytest.mark.parametrize("end_writer", [cancel, break_sender])
async def test_the_end_of_the_writers_task_is_every_waiters_typed_error(service, channel, end_writer):
    writer = AuditWriter(channel, "w")
    assert await hung_waiters(writer, service, end_writer) == []
    # Another entry would never be sent, so it is refused at once and not at its deadline.
    (late,) = await end_of([append(writer)])
    assert isinstance(late, AuditUnavailableError)
    assert not writer.append_soon(entry())


async def test_that_test_notices_waiters_that_are_forgotten(service, channel):
    silent = without(writer_module, "end-reaches-waiters")
    assert len(await hung_waiters(silent.AuditWriter(channel, "w"), service, cancel)) == 3


class EndedCall:
    """A call whose writes fail while acks that came before its end are still to be read."""

    def __init__(self, acks: list[pb.Ack]) -> None:
        self._left = [pb.AppendResponse(acks=pb.AckBatch(acks=[ack])) for ack in acks]

    async def write(self, request) -> None:
        raise asyncio.InvalidStateError

    async def read(self):
        await asyncio.sleep(0)
        return self._left.pop(0) if self._left else grpc.aio.EOF


async def test_acks_that_came_before_a_failed_write_still_count(channel):
    writer = AuditWriter(channel, "w")
    kept = [writer._keep(entry(number)) for number in range(3)]
    receipt = entry_pb2.Receipt(log_id="log", index=7)
    with pytest.raises(writer_module._StreamEndedError):
        await writer._exchange(EndedCall([pb.Ack(sequence=n, receipt=receipt) for n in (1, 2, 3)]))
    assert [one.done.result().index for one in kept] == [7, 7, 7]
