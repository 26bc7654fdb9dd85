"""Named exchanges with model `tensorrt_llm`: recorded from the real server, replayed by the scripted one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2

MODEL_NAME = "tensorrt_llm"
ADAPTER_SLOTS = 2
"""Of the server that is recorded, and of the scripted one that is held against it."""

Tensors = dict[str, npt.NDArray[Any]]

_DATATYPES = {"int32": "INT32", "uint64": "UINT64", "bool": "BOOL", "float32": "FP32", "float16": "FP16"}
_PROMPT = (1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47, 2, 198, 1, 520, 9531, 198)
_ANSWER_TOKENS = 7  # what the model says to it: "The capital of France is Paris."
_FIRST_TOKEN = 504
_END_TOKEN = 2
_HIDDEN = 576
_LAYERS = 30
_ATTN_Q = 1
_AS_STATUS = (("triton_grpc_error", "true"),)


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and what its client does with the answer."""

    tensors: Tensors
    request_id: str = "exchange"
    empty_final: bool = True
    """Whether the request asks for an otherwise suppressed empty last response."""
    outputs: tuple[str, ...] = ()
    cancel_after: int | None = None
    """The client cancels after so many responses."""
    unary: bool = False
    """Goes to `ModelInfer`."""
    metadata: tuple[tuple[str, str], ...] = ()
    model: str = MODEL_NAME
    cut_input: str = ""
    """An input whose last byte is not sent."""
    lost_inputs: int = 0
    """The bytes of so many inputs, the last ones, are not sent at all."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """An exchange and what happens around it."""

    name: str
    about: str
    exchange: Exchange
    before: tuple[Tensors, ...] = ()
    """Requests answered in full first."""
    held: tuple[Tensors, ...] = ()
    """Requests that run meanwhile."""
    answer_tokens: int | None = field(default=_ANSWER_TOKENS)
    """What the model says before it ends; none for no end."""


def scalar(value: float, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """A tensor of one value, shape [1, 1]."""
    return np.array([[value]], dtype)


def prompt(new_tokens: int, *, end_token: int | None = _END_TOKEN, streaming: bool = True) -> Tensors:
    """A question as tensors."""
    tensors: Tensors = {
        "input_ids": np.array([_PROMPT], np.int32),
        "input_lengths": scalar(len(_PROMPT), np.int32),
        "request_output_len": scalar(new_tokens, np.int32),
        "streaming": scalar(streaming, bool),
    }
    if not streaming:
        tensors["exclude_input_in_output"] = scalar(True, bool)
    if end_token is not None:
        tensors["end_id"] = scalar(end_token, np.int32)
    return tensors


def by_id(lora_id: int) -> Tensors:
    """An adapter that is believed to be cached."""
    return {"lora_task_id": scalar(lora_id, np.uint64)}


def adapter(lora_id: int, *, seed: int | None = None) -> Tensors:
    """A rank-1 adapter of noise on the queries of every layer, with its weights."""
    noise = np.random.default_rng(lora_id if seed is None else seed).normal(0, 0.5, (1, _LAYERS, 2 * _HIDDEN))
    rows = [[_ATTN_Q, layer, 1] for layer in range(_LAYERS)]
    return {
        **by_id(lora_id),
        "lora_weights": noise.astype(np.float16),
        "lora_config": np.array([rows], np.int32),
    }


def infer_request(exchange: Exchange) -> Any:
    """The exchange's `ModelInferRequest`."""
    request = service_pb2.ModelInferRequest(model_name=exchange.model, id=exchange.request_id)
    if exchange.empty_final:
        request.parameters["triton_enable_empty_final_response"].bool_param = True
    for name in exchange.outputs:
        request.outputs.add(name=name)
    for name, array in exchange.tensors.items():
        request.inputs.add(name=name, datatype=_DATATYPES[str(array.dtype)], shape=array.shape)
        request.raw_input_contents.append(array.tobytes()[: -1 if name == exchange.cut_input else None])
    if exchange.lost_inputs:
        del request.raw_input_contents[-exchange.lost_inputs :]
    return request


def _without(tensors: Tensors, name: str) -> Tensors:
    return {key: value for key, value in tensors.items() if key != name}


SCENARIOS = (
    Scenario("stream", "seven tokens, then the end token", Exchange(prompt(40))),
    Scenario(
        "end_at_once",
        "the end token is the first one: a final response without tokens and nothing else",
        Exchange(prompt(40, end_token=_FIRST_TOKEN)),
        answer_tokens=0,
    ),
    Scenario(
        "length", "the limit is reached: the last token's response is the final one", Exchange(prompt(3))
    ),
    Scenario("whole", "not streaming: one response", Exchange(prompt(40, streaming=False))),
    Scenario(
        "whole_with_prompt",
        "not streaming, the prompt not excluded: it comes before the answer",
        Exchange(_without(prompt(40, streaming=False), "exclude_input_in_output")),
    ),
    Scenario("no_id", "a request without an id", Exchange(prompt(2), request_id="")),
    Scenario("no_empty_final", "the empty final flag not set", Exchange(prompt(2), empty_final=False)),
    Scenario(
        "stop_unknown",
        "stop for an id that is not running: an empty final response",
        Exchange(prompt(1) | {"stop": scalar(True, bool)}),
    ),
    Scenario(
        "stop_no_empty_final",
        "stop without the empty final flag: the response comes all the same",
        Exchange(prompt(1) | {"stop": scalar(True, bool)}, empty_final=False),
    ),
    Scenario(
        "stop_no_id",
        "stop without an id",
        Exchange(prompt(1) | {"stop": scalar(True, bool)}, request_id=""),
    ),
    Scenario(
        "cancelled",
        "the client cancels after two responses",
        Exchange(prompt(600, end_token=None), cancel_after=2),
        answer_tokens=None,
    ),
    Scenario("adapter", "an adapter with its weights", Exchange(prompt(3, end_token=None) | adapter(201))),
    Scenario(
        "adapter_cached",
        "an adapter by id alone",
        Exchange(prompt(3, end_token=None) | by_id(202)),
        before=(prompt(1) | adapter(202),),
    ),
    Scenario("miss", "an adapter by id that is not cached", Exchange(prompt(3) | by_id((9 << 40) | 203))),
    Scenario(
        "miss_status",
        "the same, with errors as the stream's status",
        Exchange(prompt(3) | by_id((9 << 40) | 203), metadata=_AS_STATUS),
    ),
    Scenario(
        "cache_full",
        "every cached adapter is in use",
        Exchange(prompt(3) | adapter(213)),
        held=tuple(prompt(1000, end_token=None) | adapter(lora_id) for lora_id in (211, 212)),
        answer_tokens=None,
    ),
    Scenario(
        "weights_without_config",
        "half of an adapter",
        Exchange(prompt(3) | _without(adapter(221), "lora_config")),
    ),
    Scenario(
        "weights_without_id",
        "an adapter without its id",
        Exchange(prompt(3) | _without(adapter(221), "lora_task_id")),
    ),
    Scenario(
        "wrong_shape",
        "a prompt without the batch axis",
        Exchange(prompt(3) | {"input_ids": np.array(_PROMPT, np.int32)}),
    ),
    Scenario(
        "wrong_scalar_shape",
        "a scalar of two values",
        Exchange(prompt(3) | {"end_id": np.array([[1, 2]], np.int32)}),
    ),
    Scenario(
        "wrong_datatype",
        "a 64-bit seed as 32 bits",
        Exchange(prompt(3) | {"seed": scalar(1, np.int32)}),
    ),
    Scenario("cut_input", "a byte less than the shape says", Exchange(prompt(3), cut_input="input_ids")),
    Scenario("lost_input", "the last input without its bytes", Exchange(prompt(3), lost_inputs=1)),
    Scenario("lost_inputs", "no input has its bytes", Exchange(prompt(3), lost_inputs=len(prompt(3)))),
    Scenario(
        "empty_prompt",
        "a prompt of no tokens",
        Exchange(prompt(3) | {"input_ids": np.empty((1, 0), np.int32)}),
    ),
    Scenario(
        "no_room_to_answer",
        "an answer of no tokens",
        Exchange(prompt(3) | {"request_output_len": scalar(0, np.int32)}),
    ),
    Scenario(
        "not_implemented",
        "a beam search, which the twin does not have",
        Exchange(prompt(3) | {"beam_width": scalar(2, np.int32)}),
    ),
    Scenario(
        "senseless_sampling",
        "a temperature below zero",
        Exchange(prompt(3) | {"temperature": scalar(-1, np.float32)}),
    ),
    Scenario(
        "undeclared_input",
        "an input that the model does not have",
        Exchange(prompt(3) | {"no_such_input": scalar(1, np.int32)}),
    ),
    Scenario(
        "missing_input",
        "without the output length, though it is required: Triton counts the inputs, it does not name them",
        Exchange(_without(prompt(3), "request_output_len")),
    ),
    Scenario(
        "missing_output",
        "asked for one of the two outputs that always come",
        Exchange(prompt(3), outputs=("output_ids",)),
    ),
    Scenario(
        "undeclared_input_status",
        "the same, with errors as the stream's status",
        Exchange(prompt(3) | {"no_such_input": scalar(1, np.int32)}, metadata=_AS_STATUS),
    ),
    Scenario("unknown_model", "a model that is not there", Exchange(prompt(3), model="no_such_model")),
    Scenario(
        "unknown_model_status",
        "the same, with errors as the stream's status",
        Exchange(prompt(3), model="no_such_model", metadata=_AS_STATUS),
    ),
    Scenario("unary", "ModelInfer of a decoupled model", Exchange(prompt(3), unary=True)),
)
