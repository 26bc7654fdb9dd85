"""Long prompts are encoded beside the event loop, not instead of it."""

from __future__ import annotations

import asyncio
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from services.common.text.templates import ChatTemplate
from services.common.text.tokenisation import Tokeniser
from services.router import tenant_threads
from services.router.tenant_threads import TenantThreads
from services.router.text import prompt_encoding
from services.router.text.prompt import Prompt
from services.router.text.prompt_encoding import PromptEncoder
from services.router.text.text_model import TextModel
from tests.fakes.mutants import without
from tests.fakes.tiny_text import CHAT_TEMPLATE, tiny_tokeniser_json

LONG = "hello world, said the system. " * 2048
TRIES = 20


class Turns:
    """A task that counts the loop's turns."""

    def __init__(self) -> None:
        self.count = 0

    async def run(self) -> None:
        while True:
            self.count += 1
            await asyncio.sleep(0)


class WatchedTokeniser(Tokeniser):
    """Records how often the loop turned during each encoding."""

    turns: Turns

    def __init__(self) -> None:
        super().__init__(tiny_tokeniser_json())
        self.turned: list[int] = []

    def encode_prompt(self, text: str) -> list[int]:
        before = self.turns.count
        ids = super().encode_prompt(text)
        self.turned.append(self.turns.count - before)
        return ids


class HoldingTokeniser(WatchedTokeniser):
    """A mutant: encodes one text as one text."""

    def _encoded(self, text: str, *, special: bool) -> list[int]:
        return list(self._text.encode(text, add_special_tokens=special).ids)


@pytest.fixture
def threads_keep_the_interpreter():
    """A thread loses the interpreter's lock only where it releases it."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(3600)
    yield
    sys.setswitchinterval(interval)


async def turned_while_encoding(tokeniser: WatchedTokeniser) -> bool:
    """Whether the loop ever turned; a loaded machine may not wake it during a single encoding."""
    model = TextModel(tokeniser, ChatTemplate(CHAT_TEMPLATE, list(tokeniser.control_token_ids)))
    prompt = Prompt((), LONG, "prompt", len(LONG))
    tokeniser.turns = Turns()
    turning = asyncio.create_task(tokeniser.turns.run())
    try:
        with PromptEncoder(1) as encoder:
            for _ in range(TRIES):
                await encoder.encode("t", model, prompt)
                if any(tokeniser.turned):
                    return True
        return False
    finally:
        turning.cancel()


@pytest.mark.usefixtures("threads_keep_the_interpreter")
async def test_the_loop_turns_while_a_long_prompt_is_encoded():
    assert await turned_while_encoding(WatchedTokeniser())


@pytest.mark.usefixtures("threads_keep_the_interpreter")
async def test_that_test_notices_an_encoding_that_keeps_the_interpreter():
    assert not await turned_while_encoding(HoldingTokeniser())


@pytest.mark.parametrize("text", ["", "hello", LONG, "<|im_start|>", "日本 🗼\n" * 500])
def test_a_batch_of_one_has_the_ids_of_its_text(text):
    tokeniser = WatchedTokeniser()
    assert tokeniser._encoded(text, special=True) == tokeniser._text.encode(text).ids
    assert (
        tokeniser._encoded(text, special=False) == tokeniser._text.encode(text, add_special_tokens=False).ids
    )


async def encoded_first(threads: type[TenantThreads], monkeypatch) -> str:
    """Whose prompt is encoded next, of a tenant with many and one with a single prompt that came last."""
    monkeypatch.setattr(prompt_encoding, "TenantThreads", threads)
    hold = threading.Event()
    order: list[str] = []

    def encode_prompt(text: str) -> list[int]:
        hold.wait(5)
        order.append(text[0])
        return [1]

    model: Any = SimpleNamespace(encode_prompt=encode_prompt)

    with PromptEncoder(1) as encoder:
        prompts = ["a" * 5000] * 5 + ["b" * 5000]
        tasks = [
            asyncio.create_task(encoder.encode(text[0], model, Prompt((), text, "prompt", len(text))))
            for text in prompts
        ]
        await asyncio.sleep(0)
        hold.set()
        await asyncio.gather(*tasks)
    return order[1]


async def test_a_tenant_with_many_long_prompts_waits_for_itself(monkeypatch):
    assert await encoded_first(TenantThreads, monkeypatch) == "b"


async def test_that_test_notices_prompts_in_their_order(monkeypatch):
    careless = without(tenant_threads, "one-turn-a-tenant").TenantThreads
    assert await encoded_first(careless, monkeypatch) == "a"
