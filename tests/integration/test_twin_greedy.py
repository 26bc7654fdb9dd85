"""The twin's greedy answers against transformers and peft, alone and in one batch."""

from __future__ import annotations

import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fakes.peft_adapters import peft_adapter
from tests.integration.triton_process import scalar

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = json.loads((ROOT / "tests/testdata/reference/greedy.json").read_text("utf-8"))
ADAPTERS = {
    name: peft_adapter(ROOT / "demo_adapters" / name, task_id)
    for task_id, name in enumerate(REFERENCE["adapters"], start=(1 << 40) + 1)
}
CASES = [(case, output) for case in REFERENCE["cases"] for output in case["outputs"]]


def answer(twin, case, output):
    tensors = dict(ADAPTERS.get(output["adapter"], {}))
    return twin.generate(
        case["prompt_token_ids"],
        case["max_tokens"],
        end_id=scalar(REFERENCE["end_token_id"], "int32"),
        streaming=scalar(True, bool),
        **tensors,
    )


def test_the_reference_was_made_with_these_weights(prepared_model):
    model = REFERENCE["model"]
    assert model["weights_sha256"] == prepared_model.weights_sha256
    assert model["tokenizer_sha256"] == prepared_model.tokenizer_sha256
    assert model["chat_template_sha256"] == prepared_model.chat_template_sha256


def test_the_adapters_answers_differ_pairwise():
    for case in REFERENCE["cases"]:
        answers = [output["output_token_ids"] for output in case["outputs"]]
        if case["kind"] == "short":
            assert all(one != other for one, other in itertools.combinations(answers, 2)), case["messages"]


def test_eight_at_once_mixing_base_and_adapters_give_the_references_tokens(twin):
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda pair: answer(twin, *pair), CASES))
    for (case, output), reply in zip(CASES, replies, strict=True):
        assert reply.error is None
        assert reply.tokens == output["output_token_ids"], (case["messages"], output["adapter"])


def test_each_alone_gives_the_references_tokens(twin):
    for case, output in CASES[:8]:
        assert answer(twin, case, output).tokens == output["output_token_ids"]
