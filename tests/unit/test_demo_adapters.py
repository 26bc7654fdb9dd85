"""The committed demo adapters and reference outputs, checked from the files alone."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parents[2]
ADAPTERS = ROOT / "demo_adapters"
REFERENCE = ROOT / "tests" / "testdata" / "reference"
NAMES = sorted(path.parent.name for path in ADAPTERS.glob("*/adapter_config.json"))

LAYERS = 30
# Module -> (input, output) width in SmolLM2-135M.
WIDTHS = {
    "q_proj": (576, 576),
    "k_proj": (576, 192),
    "v_proj": (576, 192),
    "o_proj": (576, 576),
    "gate_proj": (576, 1536),
    "up_proj": (576, 1536),
    "down_proj": (1536, 576),
}
TENSOR = re.compile(
    r"base_model\.model\.model\.layers\.(?P<layer>\d+)\.(?:self_attn|mlp)\.(?P<module>\w+)"
    r"\.lora_(?P<matrix>[AB])\.weight"
)


def config_of(name: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((ADAPTERS / name / "adapter_config.json").read_text())
    return config


def weights_of(name: str) -> dict[str, np.ndarray]:
    weights: dict[str, np.ndarray] = load_file(ADAPTERS / name / "adapter_model.safetensors")
    return weights


def reference(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((REFERENCE / name).read_text())
    return content


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def greedy() -> dict[str, Any]:
    return reference("greedy.json")


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    return reference("chat_template.json")


def test_there_are_at_least_three_that_cover_all_modules_and_two_ranks():
    assert len(NAMES) >= 3
    assert any(set(config_of(name)["target_modules"]) == set(WIDTHS) for name in NAMES)
    assert len({config_of(name)["r"] for name in NAMES}) > 1
    assert len({config_of(name)["lora_alpha"] / config_of(name)["r"] for name in NAMES}) > 1


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_finite_halves_of_the_shapes_the_config_names(name):
    config, weights = config_of(name), weights_of(name)
    found = {}
    for tensor_name, tensor in weights.items():
        match = TENSOR.fullmatch(tensor_name)
        assert match, tensor_name
        assert tensor.dtype == np.float16
        assert np.isfinite(tensor).all()
        found[int(match["layer"]), match["module"], match["matrix"]] = tensor.shape
    expected = {}
    for layer in range(LAYERS):
        for module in config["target_modules"]:
            inputs, outputs = WIDTHS[module]
            expected[layer, module, "A"] = (config["r"], inputs)
            expected[layer, module, "B"] = (outputs, config["r"])
    assert found == expected


@pytest.mark.parametrize("name", NAMES)
def test_folding_the_scale_into_b_loses_no_bit(name):
    config = config_of(name)
    scale = config["lora_alpha"] / config["r"]
    assert not config["use_rslora"]
    assert not config["use_dora"]
    for tensor_name, tensor in weights_of(name).items():
        if ".lora_B." in tensor_name:
            folded = (tensor.astype(np.float32) * scale).astype(np.float16)
            assert np.array_equal(folded.astype(np.float32), tensor.astype(np.float32) * scale)
            assert tensor.any(), "an all-zero B adapts nothing"


@pytest.mark.parametrize("name", NAMES)
def test_config_names_the_base_model_and_no_path(name):
    config = config_of(name)
    assert config["base_model_name_or_path"] == "SmolLM2-135M-Instruct"
    assert config["peft_type"] == "LORA"
    assert config["bias"] == "none"
    others = {key: value for key, value in config.items() if key != "base_model_name_or_path"}
    assert "/" not in json.dumps(others)


def test_all_of_them_are_small_enough_to_commit():
    assert sum(path.stat().st_size for path in ADAPTERS.rglob("*") if path.is_file()) < 8 * 2**20


def test_readme_shows_each_adapter_with_an_answer_of_the_reference(greedy):
    readme = (ADAPTERS / "README.md").read_text()
    for output in greedy["cases"][0]["outputs"]:
        assert f"`{output['adapter'] or 'base'}`" in readme
        assert output["text"] in readme


def test_reference_was_made_with_the_committed_adapters(greedy):
    assert sorted(greedy["adapters"]) == NAMES
    for name, digests in greedy["adapters"].items():
        assert digests["weights_sha256"] == sha256(ADAPTERS / name / "adapter_model.safetensors")
        assert digests["config_sha256"] == sha256(ADAPTERS / name / "adapter_config.json")


def test_every_case_has_the_base_and_every_adapter(greedy):
    assert len(greedy["cases"]) >= 3
    for case in greedy["cases"]:
        assert [output["adapter"] for output in case["outputs"]] == [None, *greedy["adapters"]]


def test_every_step_is_decided_by_a_clear_margin(greedy):
    assert greedy["margin"] >= 0.05
    for case in greedy["cases"]:
        for output in case["outputs"]:
            assert output["min_margin"] >= greedy["margin"], (case["messages"], output["adapter"])


def test_outputs_of_a_case_differ_pairwise(greedy):
    for case in greedy["cases"]:
        distinct = {tuple(output["output_token_ids"]) for output in case["outputs"]}
        assert len(distinct) == len(case["outputs"])


def test_outputs_end_as_their_finish_reason_says(greedy):
    finishes = set()
    for case in greedy["cases"]:
        for output in case["outputs"]:
            ids = output["output_token_ids"]
            assert ids
            assert greedy["end_token_id"] not in ids
            if output["finish"] == "length":
                assert len(ids) == case["max_tokens"]
            else:
                assert output["finish"] == "stop"
                assert len(ids) < case["max_tokens"]
            finishes.add(output["finish"])
    assert finishes == {"stop", "length"}


def test_adapters_that_answer_in_json_do(greedy):
    texts = [
        output["text"]
        for case in greedy["cases"]
        for output in case["outputs"]
        if output["adapter"] == "json" and output["finish"] == "stop"
    ]
    assert texts
    for text in texts:
        assert json.loads(text)["status"] == "ok"


def test_both_references_come_from_one_model(greedy, template):
    assert greedy["model"] == template["model"]
    assert greedy["versions"] == template["versions"]


def test_template_cases_are_many_and_distinct(template):
    assert len(template["cases"]) >= 10
    assert len({case["name"] for case in template["cases"]}) == len(template["cases"])
    for case in template["cases"]:
        assert case["rendered"].endswith("<|im_start|>assistant\n") == case["add_generation_prompt"]
        assert case["token_ids"]
