"""kill -9 under load: what the audit service acknowledged is in the log, where it said, once and in order."""

from __future__ import annotations

import asyncio
import json
import os
import signal

import pytest

from services.audit.proofs.entry import Entry, EntryKind
from services.audit.proofs.merkle import leaf_hash
from services.common.audit.writer import AuditEntry, AuditWriter
from services.common.audit.writer import EntryKind as WriterKind
from services.common.errors import Reason
from services.common.rpc.channel import open_channel
from services.common.rpc.status import from_status
from tests.fakes.audit_service import AuditServicePlane, BareStream, append_entry

pytestmark = pytest.mark.integration
TENANTS = ["acme", "globex", "initech", "umbrella"]
BATCH = 64


@pytest.fixture
async def plane(tmp_path_factory):
    async with AuditServicePlane(tmp_path_factory.mktemp("a")) as running:
        yield running


async def logged(plane, tenant_uid, folder) -> list[Entry]:
    """A tenant's entries as an export that verifies shows them, without the service's own."""
    exported = await plane.export(tenant_uid, folder)
    assert exported.report.good, exported.report.damages
    lines = (exported.folder / "records.jsonl").read_bytes().splitlines()
    entries = [Entry.decode(bytes.fromhex(json.loads(line)["entry"])) for line in lines]
    assert [entry.header.index for entry in entries] == list(range(len(entries)))
    nonces = [(entry.header.dek_id, entry.header.counter) for entry in entries]
    assert len(set(nonces)) == len(nonces)
    own = (EntryKind.DEK_OPEN, EntryKind.LOG_OPENED, EntryKind.REVIEW)
    return [entry for entry in entries if entry.header.kind not in own]


class Flood:
    """What one stream sent and what came back before the service died."""

    def __init__(self) -> None:
        self.sent: list = []
        self.receipts: dict[bytes, object] = {}

    async def run(self, plane, kill_after_acks: int) -> None:
        async with BareStream(plane.append_target) as stream:
            sequence, killed = 0, False
            while not stream.ended:
                batch = [
                    append_entry(sequence + place, TENANTS[place % len(TENANTS)])
                    for place in range(1, BATCH + 1)
                ]
                sequence += BATCH
                self.sent += batch
                if not await stream.send(batch):
                    break
                if len(stream.acks) >= kill_after_acks and not killed:
                    # Batches are on their way in both directions at this moment.
                    os.kill(plane.pid, signal.SIGKILL)
                    killed = True
                before = sequence - 8 * BATCH
                await stream.until(lambda before=before: len(stream.acks) >= before)
            await stream.until_ended()
            by_sequence = {entry.sequence: entry.record_id for entry in self.sent}
            self.receipts = {by_sequence[number]: one for number, one in stream.receipts.items()}
        assert len(self.receipts) >= kill_after_acks
        assert await plane.exit_status() == -signal.SIGKILL


async def test_kill_under_load_loses_nothing_that_was_acknowledged(plane, tmp_path):
    floods = []
    for kill_after_acks in (1, 500, 1500):
        floods.append(Flood())
        await floods[-1].run(plane, kill_after_acks)
        await plane.service.start()
    assert any(len(flood.receipts) < len(flood.sent) for flood in floods)
    for tenant_uid in TENANTS:
        entries = await logged(plane, tenant_uid, tmp_path / tenant_uid)
        ids = [entry.header.record_id for entry in entries]
        assert len(set(ids)) == len(ids)
        found = {entry.header.record_id: entry for entry in entries}
        rounds = []
        for flood in floods:
            sent = [entry.record_id for entry in flood.sent if entry.tenant_uid == tenant_uid]
            kept = [record_id for record_id in sent if record_id in found]
            assert kept == sent[: len(kept)]
            rounds += kept
            for record_id in set(sent) & set(flood.receipts):
                receipt, entry = flood.receipts[record_id], found[record_id]
                assert receipt.index == entry.header.index
                assert receipt.log_id == entry.header.log_id.hex()
                assert receipt.leaf_hash == leaf_hash(entry.encode())
        assert ids == rounds


async def test_a_writer_brings_every_entry_through_kills_once_and_in_order(plane, tmp_path):
    rounds, each = 40, 12
    acknowledged = 0
    reached = asyncio.Condition()

    async def append(writer, entry):
        nonlocal acknowledged
        receipt = await writer.append(entry, 60)
        async with reached:
            acknowledged += 1
            reached.notify_all()
        return receipt

    async def of_tenant(writer, tenant_uid, queued):
        receipts = []
        for number in range(rounds):
            entries = [AuditEntry(tenant_uid, WriterKind.ADMIT, {"n": number}) for _ in range(each)]
            queued += entries
            receipts += await asyncio.gather(*(append(writer, entry) for entry in entries))
        return receipts

    async def kill_twice():
        for count in (len(TENANTS) * each * 5, len(TENANTS) * each * 20):
            async with reached:
                await reached.wait_for(lambda count=count: acknowledged >= count)
            await plane.service.kill()
            await plane.service.start()

    queued: dict[str, list[AuditEntry]] = {tenant_uid: [] for tenant_uid in TENANTS}
    async with (
        open_channel(plane.append_target) as channel,
        AuditWriter(channel, "w") as writer,
        asyncio.timeout(60),
    ):
        *receipts, _ = await asyncio.gather(
            *(of_tenant(writer, tenant_uid, queued[tenant_uid]) for tenant_uid in TENANTS), kill_twice()
        )
    for tenant_uid, given in zip(TENANTS, receipts, strict=True):
        entries = await logged(plane, tenant_uid, tmp_path / tenant_uid)
        assert [entry.header.record_id for entry in entries] == [one.record_id for one in queued[tenant_uid]]
        assert [(one.index, one.leaf_hash) for one in given] == [
            (entry.header.index, leaf_hash(entry.encode())) for entry in entries
        ]


async def test_sigterm_acknowledges_what_was_sent_before_it_goes(plane, tmp_path):
    batches = 30
    sent = []
    async with BareStream(plane.append_target) as stream:
        for number in range(batches):
            batch = [append_entry(number * BATCH + place, "acme") for place in range(1, BATCH + 1)]
            sent += batch
            assert await stream.send(batch)
        await stream.until(lambda: stream.acks)
        os.kill(plane.pid, signal.SIGTERM)
        await stream.finish()
        await stream.until(lambda: len(stream.receipts) == len(sent))
        assert len(stream.receipts) == len(sent)
    assert await plane.exit_status() == 0
    assert list((plane.state / "wal").iterdir()) == []
    await plane.service.start()
    entries = await logged(plane, "acme", tmp_path / "acme")
    assert [entry.header.record_id for entry in entries] == [entry.record_id for entry in sent]


async def test_a_log_behind_a_receipt_that_a_writer_holds_takes_no_more_and_the_others_do(plane):
    async with BareStream(plane.append_target) as stream:
        await stream.send([append_entry(1, "acme"), append_entry(2, "globex")])
        await stream.until(lambda: len(stream.acks) == 2)
        receipts = [stream.receipts[1], stream.receipts[2]]
    async with BareStream(plane.append_target, receipts) as stream:
        await stream.send([append_entry(1, "acme"), append_entry(2, "globex")])
        await stream.until(lambda: len(stream.acks) == 2)
        assert len(stream.receipts) == 2
    receipts[0].index += 5  # as after a roll-back of the log
    async with BareStream(plane.append_target, receipts) as stream:
        await stream.send([append_entry(1, "acme"), append_entry(2, "globex")])
        await stream.until(lambda: len(stream.acks) == 2)
        assert from_status(stream.acks[1].error).reason is Reason.LOG_DAMAGED
        assert set(stream.receipts) == {2}
    assert f"entry {receipts[0].index}" in plane.log_file.read_text()
