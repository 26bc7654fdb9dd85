"""Adapters whose scaled weights do not fit are refused, and nothing warns of the arithmetic."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from services.common.errors import InvalidArgumentError
from services.config.adapters import trtllm_rendition
from services.config.adapters.peft import Shape, parse_peft
from services.config.adapters.trtllm_rendition import render
from tests.fakes.mutants import changed
from tests.fakes.peft_files import HEAD_DIM, HEADS, HIDDEN, KV_HEADS, LAYERS, MLP, PREFIX, peft_files

SHAPE = Shape(LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, MLP)


def large_adapter(value, alpha):
    weight = np.full((HEADS * HEAD_DIM, 2), value, np.float32)
    name = f"{PREFIX}.0.self_attn.q_proj"
    halves = {
        f"{name}.lora_A.weight": np.zeros((2, HIDDEN), np.float32),
        f"{name}.lora_B.weight": weight,
    }
    settings, weights, _ = peft_files(halves, r=2, lora_alpha=alpha)
    return parse_peft(settings, weights, SHAPE)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize(("value", "alpha"), [(3e38, 200), (-3e38, 4)])
def test_a_scaled_weight_that_does_not_fit_is_refused(dtype, value, alpha):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InvalidArgumentError) as refused:
            render(large_adapter(value, alpha), dtype, 3)
    (violation,) = refused.value.violations
    assert violation.description == f"a scaled weight does not fit {dtype}"


def test_that_test_notices_numpy_warning():
    noisy = changed(trtllm_rendition, "overflow-is-refused", "scaled = module.b * np.float32(scale)")
    with pytest.warns(RuntimeWarning, match="overflow"), pytest.raises(InvalidArgumentError):
        noisy.render(large_adapter(3e38, 200), "float32", 3)
