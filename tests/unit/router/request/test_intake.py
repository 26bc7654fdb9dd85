"""No tenant takes the calls and the memory of a router from the others, however slowly it sends."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest

from services.common.errors import DeadlineExceededError, Reason, ResourceExhaustedError
from services.common.request_sizes import RECEIVED_BYTES
from services.router.request import intake as intake_module
from services.router.request.intake import Intake, Shares
from tests.fakes.mutants import without

FEW = Shares(calls=6, tenant_calls=4, tenant_bytes=2 * RECEIVED_BYTES, all_bytes=3 * RECEIVED_BYTES)


async def never() -> bytes:
    await asyncio.get_running_loop().create_future()
    raise AssertionError


async def small() -> bytes:
    return b"small"


async def reading(intake: Intake, tenant: str, receive=never) -> bytes | None:
    with intake.arrival(tenant) as arrival:
        return await intake.read(arrival, receive)


async def settled(*tasks: asyncio.Task) -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def admitted(intake: Intake, tenant: str, calls: int, held: ExitStack) -> int:
    for number in range(calls):
        try:
            held.enter_context(intake.arrival(tenant))
        except ResourceExhaustedError:
            return number
    return calls


def test_a_tenant_has_its_share_of_calls_and_one_without_any_is_always_let_in():
    intake = Intake(FEW)
    with ExitStack() as held:
        assert admitted(intake, "greedy", 10, held) == 4
        assert admitted(intake, "second", 10, held) == 2
        assert [admitted(intake, name, 2, held) for name in ("third", "fourth")] == [1, 1]
    assert intake.held == (0, 0)
    with ExitStack() as held:
        assert admitted(intake, "greedy", 10, held) == 4


def test_mutant_without_shares_gives_every_call_to_one_tenant():
    careless = without(intake_module, "share-of-calls").Intake(FEW)
    with ExitStack() as held:
        assert admitted(careless, "greedy", 100, held) == 100


async def test_who_sends_slowly_waits_for_itself_and_nobody_else_does():
    intake = Intake(FEW)
    slow = [asyncio.create_task(reading(intake, "slow")) for _ in range(4)]
    await settled()
    # Two are being read, which is its share; the others wait.
    assert intake.held == (4, 2 * RECEIVED_BYTES)
    assert await reading(intake, "quick", small) == b"small"
    other = asyncio.create_task(reading(intake, "other"))
    await settled()
    # All room is taken; a tenant without any is read all the same.
    assert await reading(intake, "quick", small) == b"small"
    for task in [*slow, other]:
        task.cancel()
    await asyncio.wait([*slow, other])
    assert intake.held == (0, 0)


async def test_room_goes_to_those_that_wait_in_order():
    intake, order = Intake(FEW), []

    async def noted(number: int) -> None:
        async def receive() -> bytes:
            order.append(number)
            return b"x"

        await reading(intake, "t", receive)

    slow = [asyncio.create_task(reading(intake, "t")) for _ in range(2)]
    await settled()
    waiting = [asyncio.create_task(noted(number)) for number in range(2)]
    await settled()
    assert order == []
    slow[0].cancel()
    await asyncio.wait_for(asyncio.gather(*waiting), 10)
    assert order == [0, 1]
    slow[1].cancel()
    await asyncio.wait(slow)
    assert intake.held == (0, 0)


@pytest.mark.parametrize("steps", range(6))
async def test_who_leaves_at_any_step_holds_nothing_and_blocks_nobody(steps):
    intake = Intake(FEW)
    slow = [asyncio.create_task(reading(intake, "t")) for _ in range(2)]
    await settled()
    leaving = asyncio.create_task(reading(intake, "t", small))
    staying = asyncio.create_task(reading(intake, "t", small))
    await settled()
    slow[0].cancel()
    for _ in range(steps):
        await asyncio.sleep(0)
    leaving.cancel()
    assert await asyncio.wait_for(staying, 10) == b"small"
    slow[1].cancel()
    await asyncio.wait([*slow, leaving])
    assert intake.held == (0, 0)


async def test_a_request_that_does_not_arrive_is_ended():
    intake = Intake(FEW, body_seconds=0.01)
    with pytest.raises(DeadlineExceededError):
        await reading(intake, "t")
    assert intake.held == (0, 0)


async def test_without_room_for_too_long_it_is_refused_with_the_limit(monkeypatch):
    monkeypatch.setattr(intake_module, "_ROOM_SECONDS", 0.01)
    intake = Intake(FEW)
    slow = [asyncio.create_task(reading(intake, "t")) for _ in range(2)]
    await settled()
    with pytest.raises(ResourceExhaustedError) as error:
        await reading(intake, "t", small)
    assert error.value.reason is Reason.SERVER_BUSY
    assert str(FEW.tenant_bytes) in error.value.message
    for task in slow:
        task.cancel()
    await asyncio.wait(slow)


async def test_the_bytes_of_a_request_count_until_its_call_ends():
    intake = Intake(FEW)
    with intake.arrival("t") as arrival:
        assert await intake.read(arrival, small) == b"small"
        assert intake.held == (1, 5)
    assert intake.held == (0, 0)
