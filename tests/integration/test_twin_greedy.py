"""The twin's greedy answers against transformers and peft, alone and in one batch.

What the reference itself promises, margins of at least 0.05 at every step and the digests of the adapters, is
checked without a server by `tests/unit/test_demo_adapters.py`.
"""

from __future__ import annotations

import itertools
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from services.config.adapters.peft import Shape
from tests.fakes.peft_adapters import peft_adapter
from tests.integration.triton_process import scalar

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = json.loads((ROOT / "tests/testdata/reference/greedy.json").read_text("utf-8"))
SHAPE = Shape(layers=30, hidden=576, heads=9, kv_heads=3, head_dim=64, mlp=1536)
ADAPTERS = {
    name: peft_adapter(ROOT / "demo_adapters" / name, task_id, SHAPE)
    for task_id, name in enumerate(REFERENCE["adapters"], start=(1 << 40) + 1)
}
AT_ONCE = 8
WAIT_SECONDS = 30
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


def test_the_base_models_and_the_adapters_answers_differ_pairwise():
    """Else one adapter could be taken for another, or for none, and nothing below would notice."""
    for case in REFERENCE["cases"]:
        answers = [output["output_token_ids"] for output in case["outputs"]]
        assert len(answers) == 1 + len(ADAPTERS)
        assert all(one != other for one, other in itertools.combinations(answers, 2)), case["messages"]


def test_eight_at_once_mixing_base_and_adapters_give_the_references_tokens(twin):
    start = threading.Barrier(AT_ONCE)

    def together(pair):
        start.wait(WAIT_SECONDS)
        return answer(twin, *pair)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for first in [*range(0, len(CASES) - AT_ONCE, AT_ONCE), len(CASES) - AT_ONCE]:
            eight = CASES[first : first + AT_ONCE]
            assert {output["adapter"] for _, output in eight} == {None, *ADAPTERS}
            for (case, output), reply in zip(eight, pool.map(together, eight), strict=True):
                assert reply.error is None
                assert reply.tokens == output["output_token_ids"], (case["messages"], output["adapter"])


def test_each_alone_gives_the_references_tokens(twin):
    """The same eight as some of those at once; the last four prompts are computed in chunks of a batch's size."""
    alone = CASES[:4] + CASES[-4:]
    assert all(len(case["prompt_token_ids"]) > 2 * twin.settings.max_batch_tokens for case, _ in alone[4:])
    for case, output in alone:
        assert answer(twin, case, output).tokens == output["output_token_ids"]
