"""Which settings of a PEFT config are supported, which have no effect, and which are refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from services.common.errors import InvalidArgumentError
from services.common.rpc.status import from_status, to_status
from services.config.adapters import peft_config
from services.config.adapters.peft import Shape, parse_peft
from services.config.adapters.peft_config import CONFIG_FILE, parse_config
from tests.fakes.mutants import without
from tests.fakes.peft_files import HEAD_DIM, HEADS, HIDDEN, KV_HEADS, LAYERS, MLP, PREFIX, peft_files

SHAPE = Shape(LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, MLP)
DEMO = Path(__file__).parents[4] / "demo_adapters"


def parse(changes=None, **config):
    settings, weights, _ = peft_files(changes, **config)
    return parse_peft(settings, weights, SHAPE)


def refused(changes=None, **config):
    with pytest.raises(InvalidArgumentError) as refusal:
        parse(changes, **config)
    return {violation.field: violation.description for violation in refusal.value.violations}


def test_a_key_that_has_no_utf_8_is_refused_with_an_error_that_can_be_sent():
    settings, weights, _ = peft_files()
    config = settings.rstrip(b"} \n") + rb', "\ud800\u001b": true}'
    with pytest.raises(InvalidArgumentError) as refusal:
        parse_peft(config, weights, SHAPE)
    sent = from_status(to_status(refusal.value))
    assert [violation.field for violation in sent.violations] == [rf"{CONFIG_FILE}:\ud800\x1b"]


def test_what_peft_itself_writes_is_accepted():
    for path in DEMO.glob(f"*/{CONFIG_FILE}"):
        written = json.loads(path.read_bytes())
        lora, wrong = parse_config(path.read_bytes())
        assert not wrong, path
        assert (lora.rank, lora.scale) == (written["r"], written["lora_alpha"] / written["r"])
        assert lora.target_modules == tuple(written["target_modules"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_dora", True),
        ("fan_in_fan_out", True),
        ("modules_to_save", ["lm_head"]),
        ("rank_pattern", {"q_proj": 1}),
        ("alpha_pattern", {"q_proj": 1}),
        ("lora_bias", True),
        ("trainable_token_indices", [1]),
        ("target_parameters", ["mlp.experts"]),
        ("alora_invocation_tokens", [1, 2]),
        ("use_qalora", True),
        ("use_bdlora", {"target_modules_bd_a": ["q_proj"]}),
        ("layer_replication", [[0, 2]]),
        ("loftq_config", {"loftq_bits": 4}),
        ("corda_config", {"corda_method": "ipm"}),
        ("arrow_config", {"top_k": 2}),
        ("kasa_config", {"beta": 1}),
        ("megatron_config", {"tensor_model_parallel_size": 2}),
        ("of_a_later_release", "on"),
    ],
)
def test_what_would_change_the_mathematics_is_refused_unless_it_is_empty(key, value):
    assert refused(**{key: value}) == {f"{CONFIG_FILE}:{key}": "is not supported"}
    for empty in (None, type(value)()):
        assert parse(**{key: empty}).rank == 2


@pytest.mark.parametrize("start", [True, False, "gaussian", "orthogonal", "eva"])
def test_an_initialisation_that_leaves_the_base_model_alone_is_accepted(start):
    assert parse(init_lora_weights=start).rank == 2


@pytest.mark.parametrize(
    "start", ["pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga", "later", 1, None, []]
)
def test_an_initialisation_that_moves_the_base_models_weights_is_refused(start):
    assert refused(init_lora_weights=start).keys() == {f"{CONFIG_FILE}:init_lora_weights"}


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("r", [True, False, 0, -1, 513, 2.0, "2", None]),
        ("lora_alpha", [True, 0, -1, 1e6, float("nan"), float("inf"), "4", None]),
        ("use_rslora", [1, "yes", [True]]),
        ("bias", ["all", "lora_only", None, False]),
        ("peft_type", ["IA3", None]),
        ("target_modules", [[1], ["q_proj", None]]),
    ],
)
def test_a_value_of_another_kind_is_refused(key, values):
    for value in values:
        assert f"{CONFIG_FILE}:{key}" in refused(**{key: value}), value


def test_a_true_taken_for_the_number_one_is_noticed():
    """The test above fails where a boolean counts as a number: JSON's true would be rank 1."""
    broken = without(peft_config, "rank-is-a-number")
    config, _, _ = peft_files(r=True)
    lora, wrong = broken.parse_config(config)
    assert lora.rank == 1
    assert f"{CONFIG_FILE}:r" not in {violation.field for violation in wrong}


def test_the_scale_is_by_the_rank_or_by_its_root():
    assert parse(lora_alpha=4).scale == 2
    assert parse(lora_alpha=4, use_rslora=True).scale == pytest.approx(4 / math.sqrt(2))


def test_every_module_has_the_configs_rank():
    field = refused(r=4, lora_alpha=4)["adapter_model.safetensors"]
    assert "has rank 2, not the config's 4" in field
    other = {
        f"{PREFIX}.1.mlp.down_proj.lora_A.weight": np.ones((1, MLP), np.float16),
        f"{PREFIX}.1.mlp.down_proj.lora_B.weight": np.ones((HIDDEN, 1), np.float16),
    }
    assert refused(other) == {
        "adapter_model.safetensors": "model.layers.1.mlp.down_proj has rank 1, not the config's 2"
    }


@pytest.mark.parametrize(
    "targets",
    [
        ["q_proj", "down_proj"],
        ["self_attn.q_proj", "1.mlp.down_proj"],
        ["model.layers.0.self_attn.q_proj", "down_proj"],
        "all-linear",
        r".*\.(q_proj|down_proj)",
        None,
    ],
)
def test_targets_that_name_what_the_file_holds_are_accepted(targets):
    assert len(parse(target_modules=targets).modules) == 2


@pytest.mark.parametrize(
    ("targets", "what"),
    [
        (["q_proj", "down_proj", "k_proj"], "names 'k_proj', of which the weights hold nothing"),
        (["q_proj", "down_proj", "lm_head"], "names 'lm_head', of which the weights hold nothing"),
        (["q_proj", "down_proj", "proj"], "names 'proj', of which the weights hold nothing"),
        (["q_proj"], "does not name model.layers.1.mlp.down_proj, which the weights hold"),
        ([], "does not name model.layers.0.self_attn.q_proj, which the weights hold"),
    ],
)
def test_targets_and_what_the_file_holds_must_be_the_same(targets, what):
    settings, weights, _ = peft_files(target_modules=targets)
    with pytest.raises(InvalidArgumentError) as refusal:
        parse_peft(settings, weights, SHAPE)
    assert what in {violation.description for violation in refusal.value.violations}


@pytest.mark.parametrize(
    "name", ["layers.00.self_attn.q_proj", "layers.\u0660.self_attn.q_proj", "layers.0.mlp.q_proj"]
)
def test_a_second_spelling_of_a_modules_name_is_refused(name):
    prefix = PREFIX.removesuffix("layers")
    field = refused({f"{prefix}{name}.lora_A.weight": np.ones((2, HIDDEN), np.float16)})
    assert "no LoRA matrix of this model" in field["adapter_model.safetensors"]


def test_what_is_said_about_a_config_is_bounded():
    assert len(refused(**{f"unknown_{number}": True for number in range(1000)})) == 20
