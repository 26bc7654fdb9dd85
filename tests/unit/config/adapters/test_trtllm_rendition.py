"""Each PEFT matrix in its row of TensorRT-LLM's wire layout, under its module's id."""

from __future__ import annotations

import math

import numpy as np
import pytest
from safetensors.numpy import load

from services.config.adapters import trtllm_rendition
from services.config.adapters.peft import Shape, parse_peft
from tests.fakes.peft_files import HEAD_DIM, HEADS, HIDDEN, KV_HEADS, LAYERS, MLP, PREFIX, peft_files

SHAPE = Shape(LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, MLP)
# As loraModule.h numbers the modules and hf_lora_convert.py assigns them: id, name, widths in and out.
MODULES = [
    (1, "self_attn.q_proj", HIDDEN, HEADS * HEAD_DIM),
    (2, "self_attn.k_proj", HIDDEN, KV_HEADS * HEAD_DIM),
    (3, "self_attn.v_proj", HIDDEN, KV_HEADS * HEAD_DIM),
    (4, "self_attn.o_proj", HEADS * HEAD_DIM, HIDDEN),
    (5, "mlp.gate_proj", HIDDEN, MLP),
    (6, "mlp.down_proj", MLP, HIDDEN),
    (7, "mlp.up_proj", HIDDEN, MLP),
]
RANK, ALPHA = 2, 6


def all_modules():
    random = np.random.default_rng(7)
    changes = {}
    for layer in range(LAYERS):
        for _, name, width_in, width_out in MODULES:
            for half, shape in (("A", (RANK, width_in)), ("B", (width_out, RANK))):
                values = random.standard_normal(shape).astype(np.float16)
                changes[f"{PREFIX}.{layer}.{name}.lora_{half}.weight"] = values
    return changes


def rows_of(rendition, columns, **config):
    """The rows by their module's id and layer, and the tensors they were made of."""
    settings, weights, tensors = peft_files(all_modules(), r=RANK, lora_alpha=ALPHA, **config)
    rendered = load(rendition.render(parse_peft(settings, weights, SHAPE), "float32", columns).data)
    table = rendered["lora_config"]
    assert table.shape == (LAYERS * len(MODULES), columns)
    assert not table[:, 3:].any()
    keys = [tuple(row[:2]) for row in table.tolist()]
    assert set(table[:, 2].tolist()) == {RANK}
    return dict(zip(keys, rendered["lora_weights"], strict=True)), tensors


def expected(tensors, layer, name, scale):
    a, b = (tensors[f"{PREFIX}.{layer}.{name}.lora_{half}.weight"].astype(np.float32) for half in "AB")
    return np.concatenate([a.ravel(), (b * np.float32(scale)).ravel()])


def swapped(one, other):
    ids = trtllm_rendition.MODULE_IDS
    return {**ids, one: ids[other], other: ids[one]}


def unscaled(module, scale):
    return np.concatenate([module.a.ravel(), module.b.ravel()])


def transposed(module, scale):
    return np.concatenate([module.a.T.ravel(), (module.b * np.float32(scale)).ravel()])


def is_right(rendition, module_id, name):
    rows, tensors = rows_of(rendition, 4)
    wanted = [expected(tensors, layer, name, ALPHA / RANK) for layer in range(LAYERS)]
    return all(
        np.array_equal(rows[module_id, layer][: len(row)], row)
        and not rows[module_id, layer][len(row) :].any()
        for layer, row in enumerate(wanted)
    )


@pytest.mark.parametrize(("module_id", "name", "width_in", "width_out"), MODULES)
def test_each_modules_matrices_are_in_the_row_of_its_id(module_id, name, width_in, width_out):
    assert is_right(trtllm_rendition, module_id, name)
    assert SHAPE.dims(name.partition(".")[2]) == (width_in, width_out)


@pytest.mark.parametrize(
    ("part", "broken", "module_id", "name"),
    [
        ("MODULE_IDS", swapped("gate_proj", "up_proj"), 5, "mlp.gate_proj"),
        ("MODULE_IDS", swapped("k_proj", "v_proj"), 2, "self_attn.k_proj"),
        ("_row", unscaled, 1, "self_attn.q_proj"),
        ("_row", transposed, 1, "self_attn.q_proj"),
    ],
)
def test_that_test_notices_a_swap_a_lost_scale_and_a_transposed_matrix(
    monkeypatch, part, broken, module_id, name
):
    monkeypatch.setattr(trtllm_rendition, part, broken)
    assert not is_right(trtllm_rendition, module_id, name)


def test_rank_stabilised_adapters_are_scaled_by_the_root_of_the_rank():
    rows, tensors = rows_of(trtllm_rendition, 3, use_rslora=True)
    row = expected(tensors, 1, "mlp.up_proj", ALPHA / math.sqrt(RANK))
    np.testing.assert_array_equal(rows[7, 1][: len(row)], row)
