"""The twin's greedy answers against transformers and peft, alone and in one batch.

What the reference itself promises, margins of at least 0.05 at every step and the digests of the adapters, is
checked without a server by `tests/unit/test_demo_adapters.py`.
"""

from __future__ import annotations

import itertools
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.config.adapters.peft import Shape
from tests.fakes.peft_adapters import peft_adapter
from tests.integration.triton_process import Reply, prompt_tensors, read, scalar

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = json.loads((ROOT / "tests/testdata/reference/greedy.json").read_text("utf-8"))
SHAPE = Shape(layers=30, hidden=576, heads=9, kv_heads=3, head_dim=64, mlp=1536)
ADAPTERS = {
    name: peft_adapter(ROOT / "demo_adapters" / name, task_id, SHAPE)
    for task_id, name in enumerate(REFERENCE["adapters"], start=(1 << 40) + 1)
}
AT_ONCE = 8
ATTEMPTS = 10
CASES = [(case, output) for case in REFERENCE["cases"] for output in case["outputs"]]


@dataclass
class Answer:
    """A reply, and when its messages came."""

    reply: Reply
    stamps: list[float]


@pytest.fixture(scope="module", autouse=True)
def _adapters_are_resident(twin):
    """Else the requests of a batch would arrive as far apart as their megabytes take to send."""
    for tensors in ADAPTERS.values():
        assert twin.generate([1], 1, **tensors).error is None


def ask(twin, case, output):
    tensors = prompt_tensors(case["prompt_token_ids"], case["max_tokens"])
    tensors |= {"end_id": scalar(REFERENCE["end_token_id"], "int32"), "streaming": scalar(True, bool)}
    if output["adapter"]:
        tensors["lora_task_id"] = ADAPTERS[output["adapter"]]["lora_task_id"]
    return twin.stream(tensors)


def hear(stream):
    answer = Answer(Reply(), [])

    def stamped():
        for message in stream:
            answer.stamps.append(time.monotonic())
            yield message

    answer.reply = read(stamped())
    return answer


def check(answer, case, output):
    assert answer.reply.error is None
    assert answer.reply.tokens == output["output_token_ids"], (case["messages"], output["adapter"])


def test_the_reference_was_made_with_these_weights(prepared_model):
    model = REFERENCE["model"]
    assert model["weights_sha256"] == prepared_model.weights_sha256
    assert model["tokenizer_sha256"] == prepared_model.tokenizer_sha256
    assert model["chat_template_sha256"] == prepared_model.chat_template_sha256


def test_the_base_models_and_the_adapters_answers_differ_pairwise():
    """Else one adapter could be taken for another, or for none, and nothing below would notice."""
    for case in REFERENCE["cases"]:
        answers = [output["output_token_ids"] for output in case["outputs"]]
        assert len(answers) == 1 + len(ADAPTERS)
        assert all(one != other for one, other in itertools.combinations(answers, 2)), case["messages"]


@pytest.mark.parametrize("first", [*range(0, len(CASES) - AT_ONCE, AT_ONCE), len(CASES) - AT_ONCE])
def test_eight_at_once_mixing_base_and_adapters_give_the_references_tokens(twin, first):
    eight = CASES[first : first + AT_ONCE]
    assert {output["adapter"] for _, output in eight} == {None, *ADAPTERS}
    for _ in range(ATTEMPTS):  # a client that is held up sends the last after the first is answered
        with ThreadPoolExecutor(AT_ONCE) as pool:
            streams = [ask(twin, *pair) for pair in eight]
            sent = time.monotonic()
            answers = list(pool.map(hear, streams))
        for answer, pair in zip(answers, eight, strict=True):
            check(answer, *pair)
        if all_ran_together(twin, eight, answers, sent):
            return
    pytest.fail("the eight never ran together")


def all_ran_together(twin, eight, answers, sent):
    """Each had its first token before any had its last; those of long prompts are computed all the while instead."""
    ends = min(answer.stamps[-1] for answer in answers)
    began = [
        answer.stamps[0]
        for answer, (case, _) in zip(answers, eight, strict=True)
        if len(case["prompt_token_ids"]) <= twin.settings.max_batch_tokens
    ]
    return sent < ends and max(began) < ends


def test_each_alone_gives_the_references_tokens(twin):
    """Eight of other prompts each, one of them computed in chunks of a batch's size."""
    alone = CASES[::5]
    assert {output["adapter"] for _, output in alone} == {None, *ADAPTERS}
    assert max(len(case["prompt_token_ids"]) for case, _ in alone) > 2 * twin.settings.max_batch_tokens
    for pair in alone:
        check(hear(ask(twin, *pair)), *pair)
