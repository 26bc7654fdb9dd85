"""The registry of routers, over a clock that the test moves."""

from __future__ import annotations

from contextlib import suppress

import pytest

from services.common.errors import AlreadyExistsError, ResourceExhaustedError
from services.config.discovery import registry as registry_module
from services.config.discovery.registry import MAX_REASON_CHARACTERS, MAX_REASONS, RouterRegistry
from services.config.discovery.router_status import RETURNS_WITHIN_SECONDS, SILENT_AFTER_SECONDS, RouterStatus
from tests.fakes.manual_clock import ManualClock
from tests.fakes.mutants import changed, replaced, without

FIRST, SECOND, THIRD = object(), object(), object()


class World:
    def __init__(self, module=registry_module):
        self.clock = ManualClock()
        self.registry = module.RouterRegistry(self.clock, expiry_seconds=60.0)
        self.registry.newest(10, FIRST)

    def current(self, name):
        session = self.registry.connect(name)
        self.registry.applied(session, 10, FIRST)
        return session

    def status(self, name):
        (found,) = [router for router in self.registry.routers() if router.name == name]
        return found.status

    def missing(self, revision):
        return {
            router.name: (router.status, router.applied_revision)
            for router in self.registry.progress(revision).missing
        }


@pytest.fixture
def world():
    return World()


def test_a_router_is_current_once_it_applied_the_newest_content(world):
    session = world.registry.connect("r1")
    assert world.status("r1") is RouterStatus.APPLYING
    assert not world.registry.progress(10).settled
    world.registry.applied(session, 10, FIRST)
    assert world.status("r1") is RouterStatus.CURRENT
    assert world.registry.progress(10).complete


def missing_after_a_clean_stop(module):
    world = World(module)
    world.current("stays")
    session = world.current("stops")
    world.registry.leave(session)
    world.registry.disconnect(session)
    world.registry.newest(11, SECOND)
    return set(world.missing(11))


def test_a_router_that_stops_cleanly_is_forgotten_at_once():
    assert missing_after_a_clean_stop(registry_module) == {"stays"}


def test_that_test_notices_a_goodbye_that_is_not_heard():
    deaf = without(registry_module, "goodbye-forgets")
    assert missing_after_a_clean_stop(deaf) == {"stays", "stops"}


def test_an_older_stream_says_no_goodbye_for_a_newer_one(world):
    older = world.current("r1")
    world.current("r1")
    world.registry.leave(older)
    assert world.status("r1") is RouterStatus.CURRENT


def test_revisions_that_change_nothing_a_router_needs_are_applied_by_themselves(world):
    world.current("r1")
    world.registry.newest(12, FIRST)
    assert world.registry.progress(12).complete
    world.registry.newest(13, SECOND)
    assert world.missing(13) == {"r1": (RouterStatus.APPLYING, 12)}


def test_an_answer_to_an_older_snapshot_counts_for_every_revision_with_its_content(world):
    session = world.registry.connect("r1")
    world.registry.newest(12, FIRST)
    world.registry.applied(session, 10, FIRST)
    assert world.registry.progress(12).complete


def test_a_revision_not_seen_here_is_not_complete_whatever_routers_hold(world):
    assert not world.registry.progress(11).complete
    assert not world.registry.progress(11).settled
    assert world.registry.progress(10).complete  # there is no router that lacks it


def test_a_refusal_is_final_until_there_is_newer_content(world):
    session = world.current("r1")
    world.registry.newest(11, SECOND)
    world.registry.refused(session, 11, SECOND, ["tenants/u: no"])
    progress = world.registry.progress(11)
    assert progress.settled
    assert not progress.complete
    (refused,) = progress.missing
    assert (refused.status, refused.refused_revision, refused.applied_revision) == (
        RouterStatus.REFUSED,
        11,
        10,
    )
    assert refused.reasons == ("tenants/u: no",)
    assert world.registry.progress(10).complete
    world.registry.newest(12, SECOND)  # nothing it could answer differently
    assert world.registry.progress(12).settled
    world.registry.newest(13, THIRD)
    assert world.status("r1") is RouterStatus.APPLYING
    assert not world.registry.progress(11).settled
    world.registry.applied(session, 13, THIRD)
    assert world.registry.progress(13).complete
    assert world.registry.routers()[0].reasons == ()


def test_reasons_are_bounded(world):
    session = world.registry.connect("r1")
    world.registry.refused(session, 10, FIRST, ["x" * 1000] * 1000)
    (refused,) = world.registry.routers()
    assert [len(reason) for reason in refused.reasons] == [MAX_REASON_CHARACTERS] * MAX_REASONS


def test_a_router_that_is_gone_is_missed_until_it_expires(world):
    session = world.current("r1")
    world.current("r2")
    world.registry.disconnect(session)
    world.registry.newest(11, FIRST)  # a router that reconnects may hold something older
    assert world.missing(11) == {"r1": (RouterStatus.UNREACHABLE, 10)}
    assert not world.registry.progress(11).settled  # it may reconnect at once
    world.clock.advance(RETURNS_WITHIN_SECONDS + 0.1)
    assert world.registry.progress(11).settled
    world.clock.advance(60.0)
    assert world.missing(11) == {}
    assert world.registry.progress(11).applied_routers == 1
    assert not world.registry.knows("r1")


def test_a_router_that_stopped_speaking_is_out_of_reach_though_connected(world):
    session = world.current("r1")
    world.clock.advance(SILENT_AFTER_SECONDS + 0.1)
    assert world.status("r1") is RouterStatus.UNREACHABLE
    world.clock.advance(1000.0)
    assert world.status("r1") is RouterStatus.UNREACHABLE  # connected: not forgotten
    world.registry.heard(session)
    assert world.status("r1") is RouterStatus.CURRENT


def routers_that_have_501_of_the_new_history(module):
    """etcd went back from 1000 to 500 and reached 501; one router's answer to revision 1000 is late."""
    world = World(module)
    session = world.current("r1")
    late = world.registry.connect("r2")
    world.registry.newest(1000, SECOND)
    world.registry.applied(session, 1000, SECOND)
    world.registry.newest(0, SECOND, 1)  # between the histories
    assert not world.registry.progress(501).complete
    world.registry.newest(501, THIRD, 1)
    world.registry.applied(late, 1000, SECOND)
    return 2 - len(world.missing(501))


def test_a_revision_of_a_history_that_ended_counts_for_none_of_the_next():
    assert routers_that_have_501_of_the_new_history(registry_module) == 0


def test_that_test_notices_revisions_that_are_compared_across_histories():
    comparing = changed(registry_module, "revisions-of-one-history", "router.applied_revision = revision")
    assert routers_that_have_501_of_the_new_history(comparing) == 1


def test_of_two_streams_under_one_name_the_newer_counts(world):
    older = world.current("r1")
    newer = world.registry.connect("r1")
    assert (world.registry.stands(older), world.registry.stands(newer)) == (False, True)
    # It may be a new process, so what it applied is forgotten.
    assert world.missing(10) == {"r1": (RouterStatus.APPLYING, 0)}
    world.registry.applied(older, 10, FIRST)
    world.registry.disconnect(older)
    assert world.missing(10) == {"r1": (RouterStatus.APPLYING, 0)}
    world.registry.applied(newer, 10, FIRST)
    assert world.registry.progress(10).complete


def test_an_older_stream_that_still_counted_would_answer_for_the_newer():
    broken = replaced(
        registry_module,
        "RouterRegistry._of",
        lambda self, session: self._routers.get(session.router),
    )
    world = World(broken)
    older = world.current("r1")
    world.registry.connect("r1")
    world.registry.applied(older, 10, FIRST)
    assert world.registry.progress(10).complete


def test_routers_of_an_earlier_process_are_missed_until_they_come_or_expire(world):
    world.current("here")
    world.registry.recall("here", 3, 1.0)
    world.registry.recall("gone", 9, 1.0)
    assert world.missing(10) == {"gone": (RouterStatus.UNREACHABLE, 9)}
    assert world.registry.progress(9).complete
    world.clock.advance(60.1)
    assert world.missing(10) == {}


def test_numbers_from_before_etcd_was_set_back_mean_nothing(world):
    session = world.current("r1")
    world.registry.newest(5, SECOND)
    assert world.missing(5) == {"r1": (RouterStatus.APPLYING, 0)}
    world.registry.applied(session, 5, SECOND)
    assert world.registry.progress(5).complete


def test_the_number_of_routers_is_bounded_and_those_gone_longest_make_room(world, monkeypatch):
    monkeypatch.setattr(registry_module, "MAX_ROUTERS", 2)
    session = world.current("r1")
    world.registry.disconnect(session)
    world.current("r2")
    world.current("r3")
    assert [router.name for router in world.registry.routers()] == ["r2", "r3"]
    with pytest.raises(ResourceExhaustedError):
        world.registry.connect("r4")


def test_whoever_listens_hears_of_answers_and_not_of_signs_of_life():
    registry = RouterRegistry(ManualClock(), 60.0)
    told: list[None] = []
    stop = registry.listen(lambda: told.append(None))
    session = registry.connect("r1")
    registry.heard(session)
    registry.applied(session, 1, FIRST)
    assert len(told) == 2
    stop()
    registry.disconnect(session)
    assert len(told) == 2


def second_process_gets_in(module) -> bool:
    """Whether another process takes the name of a router that is alive."""
    clock = ManualClock()
    registry = module.RouterRegistry(clock, 60.0)
    first = registry.connect("r1", "process-1")
    clock.advance(1.0)
    registry.heard(first)
    clock.advance(2.0)
    with suppress(AlreadyExistsError):
        registry.connect("r1", "process-2")
    return not registry.stands(first)


def test_a_live_routers_name_is_its_own():
    assert not second_process_gets_in(registry_module)


def test_a_second_process_is_told_which_setting_to_change():
    registry = RouterRegistry(ManualClock(), 60.0)
    registry.connect("r1", "process-1")
    with pytest.raises(AlreadyExistsError, match="TENANTRY_ROUTER_ROUTER"):
        registry.connect("r1", "process-2")


def test_that_test_notices_names_that_anyone_takes():
    assert second_process_gets_in(changed(registry_module, "one-process-a-name", "pass"))


@pytest.mark.parametrize("gone", ["silent", "disconnected", "the same process", "an older version"])
def test_a_name_is_free_for_who_may_have_it(gone):
    clock = ManualClock()
    registry = RouterRegistry(clock, 60.0)
    first = registry.connect("r1", "" if gone == "an older version" else "process-1")
    if gone == "silent":
        clock.advance(3.5)
    elif gone == "disconnected":
        registry.disconnect(first)
    second = registry.connect("r1", "process-1" if gone == "the same process" else "process-2")
    assert registry.stands(second)
    assert not registry.stands(first)
