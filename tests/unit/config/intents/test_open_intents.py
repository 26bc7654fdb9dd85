"""Every intent gets its outcome: after cancelled callers, with a slow audit service, for revisions never watched."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from tenantry.config.v1 import config_admin_service_pb2 as pb

from services.common.audit.writer import EntryKind
from services.common.durable_files import SyncFailedError
from services.common.errors import InternalError, UnavailableError
from services.config.etcd.store import StoreUnavailableError
from services.config.intents import open_intents, operator_log, transactions
from services.config.intents.change import Change
from services.config.intents.open_intents import OpenIntents
from services.config.intents.operator_log import AuditedOperatorLog, UnauditedOperatorLog
from services.config.state.operators import PLATFORM_ADMIN, Operator
from tests.fakes import config_plane
from tests.fakes.config_plane import ConfigPlane
from tests.fakes.memory_config_store import MemoryConfigStore
from tests.fakes.mutants import without
from tests.fakes.scripted_audit import MemoryAudit

CHANGE = Change(Operator("k", "first", PLATFORM_ADMIN, ""), "UpdateTenant", "tenants/acme")


class SlowStore(MemoryConfigStore):
    """Delays writes on their way in, and loses answers on their way out."""

    def __init__(self):
        super().__init__()
        self.asked, self.open = asyncio.Event(), asyncio.Event()
        self.open.set()
        self.loses_answers = False
        self.written: asyncio.Queue[int] = asyncio.Queue()

    async def write(self, conditions, puts, deletes=()):
        self.asked.set()
        await self.open.wait()
        revision = await super().write(conditions, puts, deletes)
        self.written.put_nowait(revision)
        if self.loses_answers:
            raise StoreUnavailableError("no answer")
        return revision


class AskedAudit(MemoryAudit):
    """Sets an event when it is asked."""

    def __init__(self):
        super().__init__()
        self.asked = asyncio.Event()

    async def append(self, entry, timeout_seconds):
        self.asked.set()
        return await super().append(entry, timeout_seconds)


@pytest.fixture
async def plane(tmp_path, monkeypatch):
    return await _plane(tmp_path, monkeypatch)


async def _plane(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.fakes.config_plane.MemoryConfigStore", SlowStore)
    plane = ConfigPlane(tmp_path)
    await plane.new_model()
    await plane.new_pool()
    await plane.new_tenant("acme")
    plane.entries.clear()
    plane.store.written = asyncio.Queue()
    return plane


def outcomes(entries):
    """The outcomes, by intent."""
    said = {entry.record_id: [] for entry in entries if entry.kind is EntryKind.ADMIN_INTENT}
    for entry in entries:
        if entry.kind is EntryKind.ADMIN_OUTCOME:
            said[entry.admit_record_id].append(entry.meta["outcome"])
    return list(said.values())


def recorded_versions(plane):
    return [e.meta["config_version"] for e in plane.entries if e.kind is EntryKind.CONFIG_VERSION]


async def reweigh(plane, weight, name="tenants/acme"):
    tenant = await plane.call("GetTenant", pb.GetTenantRequest(name=name))
    tenant.config.weight = weight
    return await plane.call("UpdateTenant", pb.UpdateTenantRequest(tenant=tenant))


async def gone(task):
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_a_caller_that_goes_away_while_etcd_writes_leaves_no_edit_without_an_outcome(plane):
    plane.store.open.clear()
    plane.store.asked.clear()
    call = asyncio.create_task(reweigh(plane, 7))
    await plane.store.asked.wait()
    await gone(call)
    plane.store.open.set()
    await plane.intents.finish(5.0)
    assert outcomes(plane.entries) == [["written"]]
    assert recorded_versions(plane) == [2]
    assert plane.current.state.tenant("acme").config.weight == 7


async def test_an_answer_that_is_lost_after_the_watch_showed_the_change_leaves_it_written(plane):
    plane.store.loses_answers = True
    with pytest.raises(StoreUnavailableError):
        await reweigh(plane, 7)
    assert outcomes(plane.entries) == [["written"]]
    assert recorded_versions(plane) == [2]


async def test_that_test_fails_where_a_lost_answer_is_concluded_in_any_case(tmp_path, monkeypatch):
    broken = without(open_intents, "written-stays-written")
    monkeypatch.setattr(transactions, "OpenIntents", broken.OpenIntents)
    plane = await _plane(tmp_path, monkeypatch)
    plane.store.loses_answers = True
    with pytest.raises(StoreUnavailableError):
        await reweigh(plane, 7)
    assert outcomes(plane.entries) == [["written", "unknown"]]


async def test_what_the_watch_shows_after_its_answer_was_lost_is_recorded_as_written(plane):
    followers, plane.store._followers = plane.store._followers, []
    plane.store.loses_answers = True
    with pytest.raises(StoreUnavailableError):
        await reweigh(plane, 7)
    assert outcomes(plane.entries) == [["unknown"]]
    for prefix, follower in followers:
        follower.replace(*await plane.store.list(prefix))
    assert outcomes(plane.entries) == [["unknown", "written"]]
    assert recorded_versions(plane) == [2]


NOT_WRITTEN = [
    SyncFailedError(5, "fsync failed"),
    OSError(28, "no space"),
    InternalError(),
    ValueError("too many operations"),
]


async def _outcomes_of_a_write_that_fails(plane, error):
    async def write(conditions, puts, deletes=()):
        raise error

    plane.store.write = write
    with pytest.raises(type(error)):
        await reweigh(plane, 7)
    return outcomes(plane.entries)


@pytest.mark.parametrize("error", NOT_WRITTEN, ids=lambda error: type(error).__name__)
async def test_an_edit_that_certainly_was_not_written_is_recorded_as_refused(plane, error):
    assert await _outcomes_of_a_write_that_fails(plane, error) == [["refused"]]


async def test_an_edit_that_fails_in_any_other_way_may_have_been_written(plane):
    assert await _outcomes_of_a_write_that_fails(plane, RuntimeError()) == [["unknown"]]


async def test_those_tests_fail_where_such_an_edit_is_not_concluded_as_refused(tmp_path, monkeypatch):
    broken = without(transactions, "refused-where-nothing-was-written")
    monkeypatch.setattr(config_plane, "Intents", broken.Intents)
    plane = await _plane(tmp_path, monkeypatch)
    assert await _outcomes_of_a_write_that_fails(plane, NOT_WRITTEN[0]) == [[]]


async def test_edits_whose_revisions_are_never_watched_get_their_outcomes_from_a_list(plane):
    await plane.new_tenant("globex")
    plane.entries.clear()
    await plane.store.written.get()
    followers, plane.store._followers = plane.store._followers, []
    edits = [asyncio.create_task(reweigh(plane, 7)), asyncio.create_task(reweigh(plane, 8, "tenants/globex"))]
    assert await plane.store.written.get() < await plane.store.written.get()
    for prefix, follower in followers:
        follower.replace(*await plane.store.list(prefix))
    assert [(await edit).config.weight for edit in edits] == [7, 8]
    # The newest mark is concluded twice under one record id, which makes one entry.
    assert [set(said) for said in outcomes(plane.entries)] == [{"written"}, {"written"}]
    assert recorded_versions(plane) == [2, 2]


async def test_a_stop_does_not_wait_for_the_watch_to_tell_outcomes(plane):
    plane.store._followers = []
    call = asyncio.create_task(reweigh(plane, 7))
    await plane.store.written.get()
    await gone(call)
    await plane.intents.finish(5.0)
    assert outcomes(plane.entries) == [["written"]]


async def test_an_intent_that_is_durable_too_late_is_concluded(monkeypatch):
    monkeypatch.setattr(operator_log, "INTENT_SECONDS", 0.01)
    audit = MemoryAudit()
    audit.durable.clear()
    with pytest.raises(UnavailableError):
        await AuditedOperatorLog(audit).intend(CHANGE)
    assert outcomes(audit.entries) == [["refused"]]


async def test_an_intent_whose_caller_goes_away_is_concluded_and_nothing_is_written():
    audit = AskedAudit()
    audit.durable.clear()
    intent = asyncio.create_task(AuditedOperatorLog(audit).intend(CHANGE))
    await audit.asked.wait()
    await gone(intent)
    assert outcomes(audit.entries) == [["refused"]]
    assert intent.cancelled()


async def test_an_outage_of_etcd_does_not_pile_up_what_it_never_answered():
    remembered = OpenIntents(UnauditedOperatorLog(), None)
    under_way = await remembered.intend(CHANGE)
    for _ in range(2 * open_intents.MAX_UNANSWERED):
        remembered.unanswered(await remembered.intend(CHANGE))
    assert len(remembered._open) == open_intents.MAX_UNANSWERED + 1
    assert under_way in remembered._open
