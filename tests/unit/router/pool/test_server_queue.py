"""The queue inside a server, as the three kinds of servers publish it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.pool.server_queue import waiting_requests

TRTLLM = """\
# HELP nv_trt_llm_request_metrics TRT LLM request metrics
# TYPE nv_trt_llm_request_metrics gauge
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="waiting",version="1"} 3
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="active",version="1"} 19
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="max",version="1"} 512
nv_trt_llm_request_metrics{model="another",request_type="waiting",version="1"} 7
"""
PENDING = """\
# TYPE nv_inference_pending_request_count gauge
nv_inference_pending_request_count{model="tensorrt_llm",version="1"} 2
nv_inference_pending_request_count{model="another",version="1"} 9
"""
VLLM = """\
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{model="tensorrt_llm",version="1"} 4
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{model="tensorrt_llm",version="1"} 8
"""


@pytest.mark.parametrize(
    ("published", "waiting"),
    [(TRTLLM, 3), (PENDING, 2), (VLLM, 4), (TRTLLM + PENDING, 5), ("", None), ("# nothing\nother 3\n", None)],
)
def test_each_kind_of_server_says_how_many_wait(published, waiting):
    assert waiting_requests(published, "tensorrt_llm") == waiting


@pytest.mark.parametrize("value", ["NaN", "-5", "+Inf", "1e30"])
def test_a_value_that_makes_no_sense_stays_in_bounds(value):
    published = PENDING.replace(" 2\n", f" {value}\n")
    assert waiting_requests(published, "tensorrt_llm") in {None, 0, 1_000_000}


@given(st.text(max_size=200))
def test_garbage_is_no_answer_or_a_value_error(text):
    try:
        waiting = waiting_requests(text, "m")
    except ValueError:
        return
    assert waiting is None or waiting >= 0
