"""Refusals of a key that is refused again and again wait; all others are sent at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from services.common.errors import Error, ResourceExhaustedError, UnauthenticatedError
from services.router.request import refusal_pace
from services.router.request.refusal_pace import RefusalPace
from tests.fakes.manual_clock import ManualClock
from tests.fakes.mutants import changed


async def refused(pace: RefusalPace, authorization: str, error: Error) -> None:
    with pytest.raises(type(error)):
        async with pace.paced(authorization):
            raise error


async def waiting_after(
    pace: RefusalPace, authorization: str, count: int, kind: Callable[[], Error] = UnauthenticatedError
) -> int:
    """How many of so many refusals at once are delayed."""
    calls = [asyncio.create_task(refused(pace, authorization, kind())) for _ in range(count)]
    for _ in range(5):
        await asyncio.sleep(0)
    delayed = pace.delayed
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    assert pace.delayed == 0
    return delayed


async def test_a_key_that_is_refused_again_and_again_waits_and_no_other_does():
    clock = ManualClock()
    pace = RefusalPace(clock, 512)
    assert await waiting_after(pace, "Bearer revoked", 50) == 0
    assert await waiting_after(pace, "Bearer revoked", 100) == 100
    assert await waiting_after(pace, "Bearer other", 50) == 0
    clock.advance(1.0)
    assert await waiting_after(pace, "Bearer revoked", 100) == 80


async def test_a_caller_above_its_limits_is_told_at_once_far_more_often():
    def limited() -> Error:
        return ResourceExhaustedError("limit reached")

    clock = ManualClock()
    pace = RefusalPace(clock, 512)
    assert await waiting_after(pace, "Bearer busy", 300, limited) == 100
    clock.advance(1.0)
    assert await waiting_after(pace, "Bearer busy", 300, limited) == 200


async def test_only_so_many_refusals_are_delayed():
    assert await waiting_after(RefusalPace(ManualClock(), 512), "Bearer revoked", 2000) == 512


async def test_mutant_that_paces_nothing():
    careless = changed(refusal_pace, "paced-refusals", "return True").RefusalPace(ManualClock(), 512)
    assert await waiting_after(careless, "Bearer revoked", 1000) == 0


async def test_what_is_not_refused_for_its_key_is_not_delayed(monkeypatch):
    monkeypatch.setattr(refusal_pace, "_PROMPT_BURST", 1)
    pace = RefusalPace(ManualClock(), 512)
    for _ in range(3):
        async with pace.paced("Bearer good"):
            pass
        with pytest.raises(ValueError, match="another"):
            async with pace.paced("Bearer good"):
                raise ValueError("another")
