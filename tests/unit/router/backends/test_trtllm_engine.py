from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.backends import trtllm_engine
from services.router.backends.backend import (
    AdapterCacheFullError,
    AdapterMissError,
    AdapterTensors,
    AdapterUse,
    BackendRejectedError,
    BackendUnavailableError,
    DispatchRequest,
)
from services.router.backends.kserve_stubs import InferRequest, InferResponse
from services.router.stages import Parameters
from tests.fakes.mutants import without

GREEDY = Parameters(16, 0.0, 0.9, 40, 5, ())
WEIGHTS = trtllm_engine.encode_adapter(AdapterTensors(b"w" * 16, (2, 4), "FP16", b"c" * 32, (2, 4)))


def request(parameters: Parameters = GREEDY, adapter: AdapterUse | None = None) -> DispatchRequest:
    return DispatchRequest("id-1", "tensorrt_llm", [5, 6, 7], parameters, 2, 3, adapter)


def tensors(raw: bytes) -> dict[str, tuple[str, list[int], bytes]]:
    message = InferRequest.FromString(raw)
    return {
        tensor.name: (tensor.datatype, list(tensor.shape), raw)
        for tensor, raw in zip(message.inputs, message.raw_input_contents, strict=True)
    }


def int32(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}i", *values)


def test_a_greedy_request_is_exactly_these_tensors():
    raw = trtllm_engine.encode(request())
    message = InferRequest.FromString(raw)
    assert message.id == "id-1"
    assert message.model_name == "tensorrt_llm"
    assert message.parameters["triton_enable_empty_final_response"].bool_param
    assert tensors(raw) == {
        "input_ids": ("INT32", [1, 3], int32(5, 6, 7)),
        "input_lengths": ("INT32", [1, 1], int32(3)),
        "request_output_len": ("INT32", [1, 1], int32(16)),
        "end_id": ("INT32", [1, 1], int32(2)),
        "pad_id": ("INT32", [1, 1], int32(3)),
        "streaming": ("BOOL", [1, 1], b"\x01"),
        "exclude_input_in_output": ("BOOL", [1, 1], b"\x01"),
        "runtime_top_k": ("INT32", [1, 1], int32(1)),
    }


def test_sampling_says_every_parameter_since_unset_ones_mean_greedy():
    sent = tensors(trtllm_engine.encode(request(Parameters(16, 0.5, 1.0, 0, 2**64 - 1, ()))))
    assert sent["temperature"] == ("FP32", [1, 1], struct.pack("<f", 0.5))
    assert sent["runtime_top_k"] == ("INT32", [1, 1], int32(0))
    assert sent["runtime_top_p"] == ("FP32", [1, 1], struct.pack("<f", 1.0))
    assert sent["seed"] == ("UINT64", [1, 1], b"\xff" * 8)


def test_weights_go_along_only_when_they_are_needed():
    lora_id = (7 << 40) | 1
    by_id = tensors(trtllm_engine.encode(request(adapter=AdapterUse(lora_id, 7, None))))
    assert by_id["lora_task_id"] == ("UINT64", [1, 1], struct.pack("<Q", lora_id))
    assert "lora_weights" not in by_id
    whole = tensors(trtllm_engine.encode(request(adapter=AdapterUse(lora_id, 7, WEIGHTS))))
    assert whole["lora_weights"] == ("FP16", [1, 2, 4], b"w" * 16)
    assert whole["lora_config"] == ("INT32", [1, 2, 4], b"c" * 32)


def test_a_stop_names_the_request_and_holds_the_required_tensors():
    raw = trtllm_engine.encode_stop(request(adapter=AdapterUse((7 << 40) | 1, 7, WEIGHTS)))
    message = InferRequest.FromString(raw)
    assert (message.id, message.model_name) == ("id-1", "tensorrt_llm")
    sent = tensors(raw)
    assert sent["stop"] == ("BOOL", [1, 1], b"\x01")
    assert sent.keys() == {"input_ids", "input_lengths", "request_output_len", "stop"}


def sends_foreign_adapters(dialect, owner: int, tenant: int, serial: int) -> bool:
    use = AdapterUse((owner << 40) | serial, tenant, None)
    try:
        dialect.encode(request(adapter=use))
    except dialect.ForeignAdapterError:
        return False
    return owner != tenant


@given(st.integers(1, 2**23 - 1), st.integers(1, 2**23 - 1), st.integers(0, 2**40 - 1))
def test_no_adapter_leaves_for_another_tenant(owner, tenant, serial):
    assert not sends_foreign_adapters(trtllm_engine, owner, tenant, serial)
    trtllm_engine.encode(request(adapter=AdapterUse((tenant << 40) | serial, tenant, None)))


def test_that_test_notices_a_missing_check():
    unchecked = without(trtllm_engine, "adapter-of-another-tenant")
    assert sends_foreign_adapters(unchecked, 7, 8, 1)


def response(ids: list[int] | None, length: int | None = None, *, final: bool = False):
    message = InferResponse(id="id-1")
    message.parameters["triton_final_response"].bool_param = final
    if ids is not None:
        message.outputs.add(name="sequence_length", datatype="INT32", shape=[1, 1])
        message.raw_output_contents.append(int32(len(ids) if length is None else length))
        message.outputs.add(name="output_ids", datatype="INT32", shape=[1, 1, len(ids)])
        message.raw_output_contents.append(int32(*ids))
    return message


def test_both_final_forms_and_padding():
    assert trtllm_engine.decode(response([9])).token_ids == (9,)
    with_tokens = trtllm_engine.decode(response([9, 10], final=True))
    assert (with_tokens.token_ids, with_tokens.final) == ((9, 10), True)
    empty = trtllm_engine.decode(response(None, final=True))
    assert (empty.token_ids, empty.final) == ((), True)
    no_tokens = trtllm_engine.decode(response([], final=True))
    assert (no_tokens.token_ids, no_tokens.final) == ((), True)
    assert trtllm_engine.decode(response([9, -1], 1)).token_ids == (9,)


def cut_short():
    message = response([9])
    message.raw_output_contents[0] = b"\x01"
    return message


@pytest.mark.parametrize("bad", [response(None), response([9], 2), response([9], -1), cut_short()])
def test_responses_against_the_protocol_are_refused(bad):
    with pytest.raises(BackendRejectedError):
        trtllm_engine.decode(bad)


LORA_ID = (7 << 40) | 1


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (
            f"... LoRA task {LORA_ID} not found in cache. Please send LoRA weights with request",
            AdapterMissError,
        ),
        (
            f"[TensorRT-LLM][ERROR] Assertion failed: LoRA task {LORA_ID} not found (x.cpp:1)",
            AdapterMissError,
        ),
        ("LoRA task 5 not found in cache. Please send LoRA weights with request", BackendRejectedError),
        (f"PEFT Cache is full. Could not store taskId={LORA_ID}", AdapterCacheFullError),
        (
            "Error storing task=1 in PEFT cache -- Cache is full. There are no done tasks",
            AdapterCacheFullError,
        ),
        ("Exceeds maximum queue size", BackendUnavailableError),
        ("Maximum queue size of 256 has been reached, please try again later", BackendUnavailableError),
        ("/opt/secret/path.cpp: boom", BackendRejectedError),
    ],
)
def test_error_texts_become_kinds_and_nothing_else(text, kind):
    error = trtllm_engine.failure(text, request(adapter=AdapterUse(LORA_ID, 7, None)))
    assert type(error) is kind
    assert "/opt" not in str(error)


def test_a_miss_without_an_adapter_is_a_failure():
    assert type(trtllm_engine.failure("LoRA task 5 not found", request())) is BackendRejectedError
