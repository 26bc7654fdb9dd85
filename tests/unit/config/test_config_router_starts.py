"""Heavy work waits for routers on their way to a first state, as long as the state is large, and no longer."""

from __future__ import annotations

import asyncio

import pytest

from services.config.routers import starts
from services.config.routers.registry import RouterRegistry
from tests.fakes.manual_clock import ManualClock
from tests.fakes.mutants import mutant

CONTENT = object()
LARGE, SMALL = 10**8, 1


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(starts, "_FIRST_LOOK_SECONDS_PER_RECORD", 0.0)
    made = RouterRegistry(ManualClock(), expiry_seconds=60.0)
    made.newest(10, CONTENT)
    return made


async def turns(waiting: asyncio.Task[None]) -> bool:
    """Whether it is over, given every chance."""
    for _ in range(20):
        await asyncio.sleep(0)
    return waiting.done()


async def over(registry, module=starts, records=LARGE) -> asyncio.Task[None]:
    return asyncio.create_task(module.RouterStarts(registry).over(records))


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
    hasty = mutant(starts, "while self._routers.starting():", "while False:")
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
