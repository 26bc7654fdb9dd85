"""The pace of an engine that batches: all running requests get one token a step."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

from tests.fakes.scripted_triton.script import Batching


class Batch:
    """In-flight batching with bounded slots and prompts in chunks. A request holds a slot from prompt to last token."""

    def __init__(self, batching: Batching) -> None:
        self._batching = batching
        self._slots = asyncio.Semaphore(batching.slots)
        self._holding = 0
        self._prompts: deque[_Prompt] = deque()
        self._decoding: list[asyncio.Future[None]] = []
        self._load_seconds = 0.0
        self._steps: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold one of the slots, in order of arrival."""
        async with self._slots:
            self._holding += 1
            if self._steps is None:
                self._steps = asyncio.create_task(self._run(), name="scripted steps")
            try:
                yield
            finally:
                self._holding -= 1

    async def prompt(self, tokens: int) -> None:
        """Wait for the step in which the prompt's last chunk is done: it gives the first token."""
        prompt = _Prompt(tokens)
        self._prompts.append(prompt)
        await prompt.done

    async def token(self) -> None:
        """Wait for the end of this step."""
        decoding = asyncio.get_running_loop().create_future()
        self._decoding.append(decoding)
        await decoding

    def load_adapter(self) -> None:
        """Make the next step longer by what loading an adapter takes."""
        self._load_seconds += self._batching.adapter_load_seconds

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        ends_at = loop.time()
        while self._holding:
            tokens, finished = self._chunk()
            seconds = step_seconds(self._batching, self._holding, tokens) + self._load_seconds
            self._load_seconds = 0.0
            # On the clock of steps, so that a late wake-up makes the engine no slower.
            ends_at = max(ends_at, loop.time() - seconds) + seconds
            await asyncio.sleep(ends_at - loop.time())
            decoding, self._decoding = self._decoding, []
            for waiting in (*(prompt.done for prompt in finished), *decoding):
                if not waiting.done():
                    waiting.set_result(None)
            # The requests that got their last token leave before the next step is counted.
            await asyncio.sleep(0)
        self._steps = None

    def _chunk(self) -> tuple[int, list[_Prompt]]:
        """The prompt tokens of one step, and the prompts that they finish."""
        room, finished = self._batching.prompt_tokens_a_step, list[_Prompt]()
        while self._prompts and room:
            prompt = self._prompts[0]
            # Nobody waits for the prompt of a request that was stopped.
            taken = 0 if prompt.done.done() else min(room, prompt.tokens_left)
            room -= taken
            prompt.tokens_left -= taken
            if prompt.tokens_left and taken:
                break
            finished.append(self._prompts.popleft())
        return self._batching.prompt_tokens_a_step - room, finished


class _Prompt:
    def __init__(self, tokens: int) -> None:
        self.tokens_left = tokens
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


def step_seconds(batching: Batching, running: int, prompt_tokens: int) -> float:
    """How long a step takes with so many running requests, and so many prompt tokens in it."""
    base = batching.step_seconds[-1][1]
    for (few, fast), (many, slow) in pairwise(batching.step_seconds):
        if running <= many:
            base = fast + (slow - fast) * (running - few) / (many - few)
            break
    return base + prompt_tokens / batching.prompt_tokens_a_second
