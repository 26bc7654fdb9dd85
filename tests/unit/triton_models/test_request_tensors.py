from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import triton_models
from triton_models.cpu_engine import request_tensors
from triton_models.cpu_engine.errors import RequestError
from triton_models.cpu_engine.request_tensors import INPUT_NAMES, is_stop, read_request

CONFIG = (Path(triton_models.__file__).parent / "cpu/tensorrt_llm/config.pbtxt").read_text("utf-8")
EMPTY_ONLY = request_tensors._NEUTRAL_EMPTY


def tensors(**changes):
    one = {
        "input_ids": np.array([[5, 6]], np.int32),
        "input_lengths": np.array([[2]], np.int32),
        "request_output_len": np.array([[3]], np.int32),
    }
    return one | {name: np.asarray(value) for name, value in changes.items()}


def read(exclude_input_default=False, **changes):
    return read_request(tensors(**changes), exclude_input_default=exclude_input_default)


def test_every_declared_input_is_read_or_refused():
    declared = [line.split('"')[1] for line in CONFIG.splitlines() if line.startswith("input ")]
    assert sorted(INPUT_NAMES) == sorted(declared)


@pytest.mark.parametrize("name", EMPTY_ONLY)
def test_what_is_accepted_empty_only_is_refused_with_zeros(name):
    read(**{name: np.empty((1, 0), np.int32)})
    for value in ([[0]], [[0, 0]], [[7]]):
        with pytest.raises(RequestError, match=f"{name} is not supported"):
            read(**{name: value})


@pytest.mark.parametrize(
    ("name", "neutral", "other"),
    [
        ("beam_width", 1, 0),
        ("repetition_penalty", 1.0, 1.01),
        ("runtime_top_p_min", 1e-6, 0.1),
        ("min_tokens", 0, 1),
        ("return_log_probs", False, True),
    ],
)
def test_what_is_not_implemented_is_accepted_where_it_asks_for_nothing(name, neutral, other):
    read(**{name: [[neutral]]})
    with pytest.raises(RequestError, match=f"{name} is not supported"):
        read(**{name: [[other]]})


@pytest.mark.parametrize(
    ("default", "given", "streaming", "echoed"),
    [
        (False, None, False, True),
        (True, None, False, False),
        (True, False, False, True),
        (False, True, False, False),
        (False, None, True, False),
        (False, False, True, False),
    ],
)
def test_the_prompt_is_echoed_unless_it_is_excluded_or_the_answer_streams(default, given, streaming, echoed):
    excluded = {} if given is None else {"exclude_input_in_output": [[given]]}
    _, options = read(default, streaming=[[streaming]], **excluded)
    assert options.echo_prompt is echoed


def test_the_model_echoes_the_prompt_by_default_as_tensorrt_llm_does():
    assert 'parameters { key: "exclude_input_in_output" value { string_value: "false" } }' in CONFIG


def test_a_scalar_of_two_values_and_a_batch_of_two_are_refused():
    with pytest.raises(RequestError, match="end_id must hold exactly one value"):
        read(end_id=[[1, 2]])
    with pytest.raises(RequestError, match="more than one prompt"):
        read(input_ids=[[1], [2]])


def test_only_a_true_stop_stops():
    assert is_stop(tensors(stop=[[True]]))
    assert not is_stop(tensors(stop=[[False]]))
    assert not is_stop(tensors())
