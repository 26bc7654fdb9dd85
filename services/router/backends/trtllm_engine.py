"""The dialect of TensorRT-LLM's engine backend (up to 1.2), which the CPU twin speaks too: KServe tensors.

Pure: messages in, messages out. Inputs are `inflight_batcher_llm/tensorrt_llm`'s, batch of one, so scalars are
[1, 1] and `input_ids` [1, N]; tensors travel in `raw_input_contents`, little endian, in the order of `inputs`.
"""

from __future__ import annotations

import re
import struct

from services.router.backends.backend import (
    AdapterCacheFullError,
    AdapterMissError,
    AdapterTensors,
    AdapterUse,
    BackendError,
    BackendMismatchError,
    BackendRejectedError,
    BackendUnavailableError,
    DispatchRequest,
    PromptTooLongError,
    TokenChunk,
)
from services.router.backends.kserve_stubs import InferRequest, InferResponse
from services.router.snapshot.model import LORA_SERIAL_BITS

_INT32 = struct.Struct("<i")
_MISS = re.compile(r"LoRA task (\d+) not found")
_CACHE_FULL = re.compile(r"PEFT Cache is full|Cache is full\. There are no done tasks")
_QUEUE_FULL = re.compile(r"Exceeds maximum queue size|Maximum queue size of|Request timeout expired")
# TensorRT-LLM's executor names both lengths.
_TOO_LONG = re.compile(r"exceeds maximum input length|exceeds max_input_len")
# Triton's core and backends, about tensors and names that this request has and the server's config does not.
_MISMATCH = re.compile(
    r"unexpected inference input|data-type is|byte size mismatch|batch size does not match|unknown model"
    r"|unable to find data for input tensor|must be present in list of output tensors|is not supported by"
)


class ForeignAdapterError(AssertionError):
    """A request was about to leave with an adapter of another tenant: a bug of the router."""


def encode(request: DispatchRequest) -> bytes:
    """The request as tensors, serialised; an adapter's weights come serialised already.

    Raises:
        ForeignAdapterError: the adapter is not the tenant's own.
    """
    message = InferRequest(model_name=request.server_model, id=request.request_id)
    message.parameters["triton_enable_empty_final_response"].bool_param = True
    ids = request.input_ids
    _add(message, "input_ids", "INT32", (1, len(ids)), struct.pack(f"<{len(ids)}i", *ids))
    _add_int32(message, "input_lengths", len(ids))
    _add_int32(message, "request_output_len", request.parameters.max_output_tokens)
    # The engine has no end of its own: without one it runs to the limit.
    _add_int32(message, "end_id", request.end_token_id)
    _add_int32(message, "pad_id", request.pad_token_id)
    _add(message, "streaming", "BOOL", (1, 1), b"\x01")
    _add(message, "exclude_input_in_output", "BOOL", (1, 1), b"\x01")
    _add_sampling(message, request)
    if request.adapter is None:
        return _serialised(message)
    _add_adapter_id(message, request.adapter)
    # Protobuf reads concatenated messages as one whose repeated fields are concatenated, in both lists alike.
    return _serialised(message) + (request.adapter.weights or b"")


def encode_adapter(tensors: AdapterTensors) -> bytes:
    """The part of a request with an adapter's weights: megabytes, so it is encoded once, off the event loop."""
    message = InferRequest()
    _add(message, "lora_weights", tensors.weights_datatype, (1, *tensors.weights_shape), tensors.weights)
    _add(message, "lora_config", "INT32", (1, *tensors.config_shape), tensors.config)
    return _serialised(message)


def encode_stop(request: DispatchRequest) -> bytes:
    """The message that ends a request early; it is answered once, and so is the request that it ends.

    It carries the id of the request to stop, and the tensors that the server requires of every request.
    """
    message = InferRequest(model_name=request.server_model, id=request.request_id)
    message.parameters["triton_enable_empty_final_response"].bool_param = True
    _add_int32(message, "input_ids", request.end_token_id)
    _add_int32(message, "input_lengths", 1)
    _add_int32(message, "request_output_len", 1)
    _add(message, "stop", "BOOL", (1, 1), b"\x01")
    return _serialised(message)


def decode(response: InferResponse) -> TokenChunk:
    """The new tokens of one response.

    Raises:
        BackendRejectedError: the response is not one of this dialect.
    """
    final = response.parameters["triton_final_response"].bool_param
    ids = lengths = None
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=False):
        if output.name == "output_ids":
            ids = raw
        elif output.name == "sequence_length":
            lengths = raw
    if ids is None or lengths is None:
        if final and not response.outputs:
            return TokenChunk((), final)
        raise BackendRejectedError("a response without output_ids and sequence_length")
    # Beams are never asked for, so both hold one row; a final response may hold no tokens at all.
    if 0 < len(lengths) < _INT32.size:
        raise BackendRejectedError("a sequence_length that is not a number")
    count = _INT32.unpack_from(lengths)[0] if lengths else 0
    if count < 0 or count * 4 > len(ids):
        raise BackendRejectedError("a response whose sequence_length does not fit output_ids")
    return TokenChunk(struct.unpack_from(f"<{count}i", ids), final)


def failure(text: str, request: DispatchRequest) -> BackendError:
    """The failure that a server's error text stands for: the protocol has no error codes."""
    missed = _MISS.search(text)
    if missed and request.adapter is not None and int(missed[1]) == request.adapter.lora_id:
        return AdapterMissError(request.adapter.lora_id)
    if _CACHE_FULL.search(text):
        return AdapterCacheFullError("every adapter the server holds is in use")
    if _QUEUE_FULL.search(text):
        return BackendUnavailableError("the server's queue is full", broken=False)
    if _TOO_LONG.search(text):
        return PromptTooLongError("the prompt is too long for the server", text)
    if _MISMATCH.search(text):
        return BackendMismatchError("the server does not take what the pool promises", text)
    return BackendRejectedError("the server failed at the request", text)


def _add_sampling(message: InferRequest, request: DispatchRequest) -> None:
    parameters = request.parameters
    if parameters.temperature == 0.0:
        # What temperature 0 does differs between versions; one candidate is greedy in all of them.
        _add_int32(message, "runtime_top_k", 1)
        return
    _add(message, "temperature", "FP32", (1, 1), struct.pack("<f", parameters.temperature))
    # With neither set the engine is greedy, so both are always set.
    _add_int32(message, "runtime_top_k", parameters.top_k)
    _add(message, "runtime_top_p", "FP32", (1, 1), struct.pack("<f", parameters.top_p))
    _add(message, "seed", "UINT64", (1, 1), struct.pack("<Q", parameters.seed))


def _add_adapter_id(message: InferRequest, adapter: AdapterUse) -> None:
    # The last check of the tenant boundary: ids carry their tenant, and servers check nothing.
    if adapter.lora_id >> LORA_SERIAL_BITS != adapter.tenant_ordinal:
        raise ForeignAdapterError  # proven: adapter-of-another-tenant
    _add(message, "lora_task_id", "UINT64", (1, 1), struct.pack("<Q", adapter.lora_id))


def _add_int32(message: InferRequest, name: str, value: int) -> None:
    _add(message, name, "INT32", (1, 1), _INT32.pack(value))


def _add(message: InferRequest, name: str, datatype: str, shape: tuple[int, ...], raw: bytes) -> None:
    message.inputs.add(name=name, datatype=datatype, shape=shape)
    message.raw_input_contents.append(raw)


def _serialised(message: InferRequest) -> bytes:
    return bytes(message.SerializeToString())
