"""The config service names one flow controller, by an epoch that only rises."""

from __future__ import annotations

import pytest

from services.config.discovery import flow_naming
from services.config.discovery.flow_naming import CLAIM_SECONDS, GONE_SECONDS, FlowNaming
from tests.fakes.manual_clock import ManualClock
from tests.fakes.mutants import without


@pytest.fixture
def clock():
    return ManualClock()


def join(naming: FlowNaming, *routers: str, epoch: int = 0, controller: str = "") -> None:
    for router in routers:
        naming.joined(router, f"unix:/{router}", epoch, controller)
        naming.serves(router)


def named(naming: FlowNaming) -> tuple[int, str]:
    assignment = naming.assignment()
    return (0, "") if assignment is None else (assignment.epoch, assignment.controller)


def test_nothing_is_named_without_routers(clock):
    assert named(FlowNaming(clock)) == (0, "")


def test_the_first_router_stays_the_controller(clock):
    naming = FlowNaming(clock)
    join(naming, "b")
    assert named(naming) == (1, "b")
    join(naming, "a", "c")
    assert named(naming) == (1, "b")
    assert naming.assignment().routers == {"a", "b", "c"}
    assert naming.assignment().target == "unix:/b"


def test_one_that_comes_back_in_time_stays(clock):
    naming = FlowNaming(clock)
    join(naming, "a", "b")
    assert named(naming) == (1, "a")
    naming.lost("a")
    clock.advance(GONE_SECONDS - 0.01)
    assert named(naming) == (1, "a")
    join(naming, "a", epoch=1, controller="a")
    clock.advance(GONE_SECONDS)
    assert named(naming) == (1, "a")


@pytest.mark.parametrize("clean", [False, True])
def test_another_follows_one_that_is_gone(clock, clean):
    naming = FlowNaming(clock)
    join(naming, "a", "b", "c")
    assert named(naming) == (1, "a")
    if clean:
        naming.left("a")
    else:
        naming.lost("a")
        clock.advance(GONE_SECONDS)
    assert named(naming) == (2, "b")
    join(naming, "a")
    assert named(naming) == (2, "b")


def test_one_that_has_no_config_yet_comes_last(clock):
    naming = FlowNaming(clock)
    naming.joined("a", "unix:/a", 0, "")
    join(naming, "b")
    assert named(naming) == (1, "b")


def restarted(clock: ManualClock) -> FlowNaming:
    """A config service that started anew, among routers that follow an earlier name."""
    naming = FlowNaming(clock)
    join(naming, "b", epoch=7, controller="a")
    return naming


def test_a_config_service_that_restarts_names_the_same_one(clock):
    naming = restarted(clock)
    assert named(naming) == (0, "")
    join(naming, "a", epoch=7, controller="a")
    assert named(naming) == (7, "a")


def test_it_waits_only_so_long_for_a_controller_that_is_gone(clock):
    naming = restarted(clock)
    clock.advance(CLAIM_SECONDS)
    assert named(naming) == (8, "b")


def test_that_test_notices_epochs_that_begin_anew(clock, monkeypatch):
    careless = without(flow_naming, "epochs-outlive-the-config-service")
    monkeypatch.setattr(FlowNaming, "joined", careless.FlowNaming.joined)
    assert named(restarted(clock)) == (1, "b")


def test_a_router_without_a_target_is_not_named(clock):
    naming = FlowNaming(clock)
    naming.joined("a", "", 0, "")
    assert named(naming) == (0, "")
