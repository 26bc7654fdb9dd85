"""The scripted server's pace when it batches."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from tests.fakes.scripted_triton.batch import Batch, step_seconds
from tests.fakes.scripted_triton.conversation import Conversation
from tests.fakes.scripted_triton.scenarios import Exchange, prompt
from tests.fakes.scripted_triton.script import Batching, Script
from tests.fakes.scripted_triton.server import ScriptedTriton

FAST = Batching(
    slots=2, step_seconds=((0, 0.001), (2, 0.001)), prompt_tokens_a_second=1e6, prompt_tokens_a_step=4
)


@pytest.mark.parametrize(
    ("running", "seconds"), [(0, 0.014), (1, 0.0185), (16, 0.041), (12, 0.035), (1000, 0.070)]
)
def test_a_step_takes_longer_the_more_requests_run(running, seconds):
    assert step_seconds(Batching(), running, 0) == pytest.approx(seconds)
    assert step_seconds(Batching(), running, 12) == pytest.approx(seconds + 0.01)
    assert step_seconds(Batching().faster(2.0), running, 12) == pytest.approx((seconds + 0.01) / 2)


async def steps_to_first_token(batch: Batch, *tokens: int) -> list[int]:
    """In which step each prompt is done, of requests that come at once."""
    steps = itertools.count(1)
    step = 0

    async def count() -> None:
        nonlocal step
        async with batch.slot():
            while len(done) < len(tokens):
                await batch.token()
                step = next(steps)

    done: list[int] = []

    async def ask(tokens: int) -> None:
        await batch.prompt(tokens)
        done.append(step)

    async with asyncio.timeout(5):
        counting = asyncio.create_task(count())
        await asyncio.gather(*(ask(one) for one in tokens))
        await counting
    return done


async def test_long_prompts_take_several_steps_and_come_one_after_another():
    first, second, third = await steps_to_first_token(Batch(FAST), 4, 8, 1)
    assert second - first == 2
    assert third - second == 1


async def test_no_more_run_than_there_are_slots():
    batch = Batch(FAST)
    most = running = 0

    async def ask() -> None:
        nonlocal most, running
        async with batch.slot():
            running += 1
            most = max(most, running)
            await batch.prompt(1)
            await batch.token()
            running -= 1

    async with asyncio.timeout(5):
        await asyncio.gather(*(ask() for _ in range(7)))
    assert most == 2


async def test_a_request_that_is_cancelled_gives_its_slot_and_its_turn_back():
    batch = Batch(FAST)

    async def ask(tokens: int) -> None:
        async with batch.slot():
            await batch.prompt(tokens)

    async with asyncio.timeout(5):
        huge = asyncio.create_task(ask(10**9))
        await asyncio.sleep(0)
        small = asyncio.create_task(ask(1))
        await asyncio.sleep(0)
        huge.cancel()
        await small


async def test_answers_are_whole_at_a_batchs_pace():
    script = Script(batching=FAST)
    async with ScriptedTriton(script) as triton, Conversation(triton.target) as client:
        said = await asyncio.gather(*(client.say(Exchange(prompt(5), request_id=str(n))) for n in range(4)))
    assert [(one.code, len(one.frames)) for one in said] == [("OK", 5)] * 4


def test_a_batching_script_is_read_from_json():
    script = Script.from_json('{"batching": {"slots": 3, "step_seconds": [[0, 0.01], [4, 0.02]]}}')
    assert script.batching is not None
    assert script.batching.slots == 3
    assert step_seconds(script.batching, 2, 0) == pytest.approx(0.015)
