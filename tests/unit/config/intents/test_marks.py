"""Writes to etcd around the operator audit log raise the alarm: plain values, and old values beside old marks."""

from __future__ import annotations

import pytest
from tenantry.config.v1 import config_admin_service_pb2 as pb
from tenantry.config.v1 import pool_pb2

from services.config.etcd import keys as etcd_keys
from services.config.etcd.follower import KeyChange
from services.config.etcd.store import Stored
from services.config.intents import marks as intent_marks
from services.config.intents import watch_check
from tests.fakes.config_plane import ConfigPlane
from tests.fakes.manual_clock import ManualClock
from tests.fakes.mutants import changed, without

EVIL = {etcd_keys.pool_key("evil"): pool_pb2.Pool(name="pools/evil").SerializeToString()}


class Watching:
    """Another config service, which watches a plane's store or lists it."""

    def __init__(self, plane, marks=intent_marks, changes=watch_check):
        self.plane, self.alarms, self.concluded = plane, 0, []
        self.revisions_without_intent = self
        self.follower = changes.WatchCheck(marks.IntentMarks(plane.keys.intent_key, plane.clock), self, self)

    def watches(self):
        self.plane.store.follow(etcd_keys.LIVE, self.follower)
        return self

    async def lists(self):
        self.follower.replace(*await self.plane.store.list(etcd_keys.LIVE))
        return self

    def inc(self, alarms=1):
        self.alarms += alarms

    def seen(self, intent_id, revision):
        self.concluded.append(revision)

    def listed(self, revision): ...

    def history_ended(self): ...


@pytest.fixture
async def plane(tmp_path):
    plane = ConfigPlane(tmp_path)
    await plane.new_model()
    await plane.new_pool()
    await plane.new_tenant("acme")
    return plane


async def put_back(plane, seconds_later):
    """A key is revoked; later its old value is put back, beside its old mark."""
    made = await plane.call("CreateKey", pb.CreateKeyRequest(parent="tenants/acme"))
    stored = etcd_keys.credential_key(made.key.name.rsplit("/", 1)[1])
    before = {key: (await plane.store.get(key)).value for key in (stored, etcd_keys.INTENT)}
    await plane.call("RevokeKey", pb.RevokeKeyRequest(name=made.key.name))
    if seconds_later:
        plane.clock.advance(seconds_later)
        await plane.new_tenant("globex")
    plane.store.put(before)


@pytest.mark.parametrize("seconds_later", [0, 3_600])
async def test_an_old_value_beside_its_old_mark_raises_the_alarm(plane, seconds_later, caplog):
    watching = Watching(plane).watches()
    await put_back(plane, seconds_later)
    assert watching.alarms == 1
    assert "its mark is an earlier edit's: credentials/" in caplog.text


@pytest.mark.parametrize(
    ("seconds_later", "mark"), [(0, "a-mark-is-good-once"), (3_600, "old-marks-are-used")]
)
async def test_that_test_notices_marks_that_are_good_twice(plane, seconds_later, mark):
    watching = Watching(plane, marks=without(intent_marks, mark)).watches()
    await put_back(plane, seconds_later)
    assert watching.alarms == 0


async def test_after_a_start_the_newest_mark_is_good_no_second_time(plane):
    values = {key: (await plane.store.get(key)).value for key in (etcd_keys.INTENT,)}
    watching = Watching(plane).watches()
    assert watching.alarms == 0
    plane.store.put(values)
    assert watching.alarms == 1


def refused_of_two_services_whose_clocks_differ(module):
    """They edit in turns; the clock of one is a day ahead until it is corrected."""
    clocks = ManualClock(), ManualClock(ManualClock().wall_seconds() + 86_400)
    services = [module.IntentMarks(b"k" * 32, clock) for clock in clocks]
    refused = 0
    for revision in range(10, 30):
        if revision == 20:
            clocks[1].advance(-86_400)
        mark = services[revision % 2].mark(revision.to_bytes(16), {}, [])
        for service in services:
            try:
                service.intent_of([KeyChange(etcd_keys.INTENT, Stored(mark, revision), revision)], revision)
            except module.NoIntentError:
                refused += 1
    return refused


def test_clocks_that_differ_or_go_back_make_no_alarm():
    assert refused_of_two_services_whose_clocks_differ(intent_marks) == 0


def test_that_test_notices_marks_by_the_clock_alone():
    by_the_clock = changed(
        intent_marks, "marks-only-rise", "self._made_ms = int(1000 * self._clock.wall_seconds())"
    )
    assert refused_of_two_services_whose_clocks_differ(by_the_clock) > 0


async def alarms_of_a_start_after(plane, changes=watch_check):
    plane.store.put(EVIL)
    return (await Watching(plane, changes=changes).lists()).alarms


async def test_what_was_put_without_a_mark_meanwhile_is_told_at_the_next_start(plane):
    assert (await Watching(plane).lists()).alarms == 0
    assert await alarms_of_a_start_after(plane) == 1


async def test_an_etcd_filled_by_somebody_else_is_counted_whole_and_told_in_few_lines(plane, caplog):
    for number in range(500):
        key = etcd_keys.pool_key(f"evil-{number}")
        revision = plane.store.put({key: pool_pb2.Pool(name=f"pools/evil-{number}").SerializeToString()})
    caplog.clear()
    assert (await Watching(plane).lists()).alarms == 500
    lines = [record.message for record in caplog.records if "ALARM" in record.message]
    assert len(lines) < 30
    assert f"480 more revisions up to {revision}" in lines[-1]


async def test_that_test_notices_a_start_that_checks_nothing(plane):
    assert await alarms_of_a_start_after(plane, changed(watch_check, "lists-are-checked", "later = []")) == 0


async def test_what_was_told_as_it_came_is_not_told_again_by_a_list(plane):
    watching = Watching(plane).watches()
    plane.store.put(EVIL)
    await watching.lists()
    assert watching.alarms == 1


async def test_a_list_shows_that_the_newest_edit_was_tampered_with(plane):
    await plane.new_pool("q")
    key = etcd_keys.pool_key("q")
    mark = await plane.store.get(etcd_keys.INTENT)
    plane.store.put(
        {key: pool_pb2.Pool(name="pools/other").SerializeToString(), etcd_keys.INTENT: mark.value}
    )
    assert (await Watching(plane).lists()).alarms == 1


async def test_an_edit_that_deletes_is_concluded_from_a_list_and_checked_by_the_watch(plane):
    watching = Watching(plane).watches()
    await plane.call("SuspendTenant", pb.SuspendTenantRequest(name="tenants/acme"))
    await plane.call("DeleteTenant", pb.DeleteTenantRequest(name="tenants/acme"))
    mark = await plane.store.get(etcd_keys.INTENT)
    started = await Watching(plane).lists()
    assert (watching.alarms, started.alarms) == (0, 0)
    assert started.concluded == [mark.mod_revision] == watching.concluded[-1:]


async def test_deletions_are_part_of_what_a_mark_covers(plane):
    marks = intent_marks.IntentMarks(plane.keys.intent_key, plane.clock)
    put, gone = etcd_keys.pool_key("x"), etcd_keys.pool_key("y")
    mark = marks.mark(b"i" * 16, {put: b"1"}, [gone])
    changes = [
        KeyChange(put, Stored(b"1", 7), 7),
        KeyChange(etcd_keys.INTENT, Stored(mark, 7), 7),
    ]
    with pytest.raises(intent_marks.NoIntentError):
        marks.intent_of(changes, 7)
    assert marks.intent_of([*changes, KeyChange(gone, None, 7)], 7) == b"i" * 16
