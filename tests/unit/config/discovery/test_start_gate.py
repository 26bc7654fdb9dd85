"""Heavy work over a large state waits for starting routers, for a bounded time."""

from __future__ import annotations

import asyncio

import pytest

from services.config.discovery import start_gate
from services.config.discovery.registry import RouterRegistry
from services.config.etcd.follower import KeyChange
from services.config.recovery import last_known_good
from tests.fakes.manual_clock import ManualClock
from tests.fakes.mutants import changed, without
from tests.unit.config.recovery.kept_config import Process, pools

CONTENT = object()
LARGE, SMALL = 10**8, 1


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(start_gate, "_FIRST_LOOK_SECONDS_PER_RECORD", 0.0)
    made = RouterRegistry(ManualClock(), expiry_seconds=60.0)
    made.newest(10, CONTENT)
    return made


async def turns(waiting: asyncio.Task[None]) -> bool:
    """Whether the wait has ended, after a few turns of the loop."""
    for _ in range(20):
        await asyncio.sleep(0)
    return waiting.done()


async def held_up(folder, monkeypatch, module=last_known_good) -> tuple[bool, bool]:
    """Whether a router that hangs at its start delays the file of a list, and that of the change after it."""
    monkeypatch.setattr(start_gate, "_WAIT_SECONDS_PER_RECORD", 1e6)
    process = Process(folder, ManualClock(), last_known_good=module)
    process.etcd_lists(pools(5, a="one"), 7)
    process.routers.connect("hangs")
    found = []
    for revision in (8, 9):
        settling = asyncio.create_task(process.known_good._settle())
        await asyncio.wait({settling}, timeout=0.5)
        found.append(not settling.done())
        settling.cancel()
        process.known_good._content()
        ((key, stored),) = pools(revision, a="two").items()
        process.etcd_changes([KeyChange(key, stored, revision)], revision)
    return found[0], found[1]


async def test_the_file_of_a_whole_list_waits_and_the_file_of_a_change_does_not(
    tmp_path, monkeypatch, registry
):
    assert await held_up(tmp_path, monkeypatch) == (True, False)


async def test_that_test_notices_changes_that_wait(tmp_path, monkeypatch, registry):
    waiting = changed(last_known_good, "only-lists-wait", "await self._start_gate.wait_until_started(items)")
    assert await held_up(tmp_path, monkeypatch, waiting) == (True, True)


async def over(registry, module=start_gate, records=LARGE) -> asyncio.Task[None]:
    return asyncio.create_task(module.StartGate(registry).wait_until_started(records))


@pytest.mark.parametrize("answer", ["applies it", "refuses it", "hangs up"])
async def test_a_large_state_waits_until_every_router_that_starts_has_answered_or_is_gone(registry, answer):
    ready, late = registry.connect("r1"), registry.connect("r2")
    registry.applied(ready, 10, CONTENT)
    waiting = await over(registry)
    assert not await turns(waiting)
    registry.heard(late)
    assert not await turns(waiting)
    if answer == "applies it":
        registry.applied(late, 10, CONTENT)
    elif answer == "refuses it":
        registry.refused(late, 10, CONTENT, ["a reason"])
    else:
        registry.disconnect(late)
    assert await turns(waiting)
    await waiting


async def test_that_test_notices_work_that_does_not_wait(registry):
    hasty = without(start_gate, "waits-for-starting-routers")
    hasty._FIRST_LOOK_SECONDS_PER_RECORD = 0.0
    registry.connect("r1")
    assert await turns(await over(registry, hasty))


async def test_routers_that_have_something_in_force_are_not_waited_for(registry):
    registry.applied(registry.connect("r1"), 10, CONTENT)
    registry.newest(11, object())
    assert await turns(await over(registry))


async def test_a_router_that_does_not_answer_keeps_a_small_state_from_nothing(registry):
    registry.connect("mute")
    await asyncio.wait_for(await over(registry, records=SMALL), 5)


async def test_nothing_listens_after_a_wait_that_was_given_up(registry):
    registry.connect("r1")
    waiting = await over(registry)
    assert not await turns(waiting)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not registry._listeners
