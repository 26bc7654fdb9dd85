"""Reads a request, and refuses what Triton's core and the model's shell refuse, in their order and words.

What the shell refuses of a request's tensors is left to the twin's own reader.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import model_config_pb2
from tritonclient.grpc import service_pb2 as pb

from tests.fakes.scripted_triton.recordings import read_description
from tests.fakes.scripted_triton.scenarios import MODEL_NAME
from triton_models.cpu_engine.errors import RequestError
from triton_models.cpu_engine.request_tensors import is_stop, read_request

_REQUIRED_OUTPUTS = ("output_ids", "sequence_length")
_NUMPY: dict[str, npt.DTypeLike] = {
    "BOOL": np.bool_,
    "INT32": np.int32,
    "UINT64": np.uint64,
    "FP16": np.float16,
    "FP32": np.float32,
}


class RefusedError(Exception):
    """A refusal; `of` says whose: `core` or `backend`."""

    def __init__(self, of: str, text: str) -> None:
        super().__init__(text)
        self.of = of
        self.text = text


@dataclass(frozen=True, slots=True)
class Request:
    """What a scripted model needs to know of a request."""

    request_id: str
    input_ids: bytes
    max_tokens: int
    end_token: int | None
    streaming: bool
    stop: bool
    lora_id: int | None
    has_weights: bool
    echo: tuple[int, ...] = ()
    """Comes before the answer."""


class RequestReader:
    """Knows the model's inputs from the recorded config."""

    def __init__(self, shape_note: str) -> None:
        config = pb.ModelConfigResponse.FromString(read_description("model_config")).config
        kind = model_config_pb2.DataType.Name
        self._inputs = {one.name: (_wire_name(kind(one.data_type)), tuple(one.dims)) for one in config.input}
        self._shape_note = shape_note

    def read(self, message: Any) -> Request:
        """Read a `ModelInferRequest`.

        Raises:
            RefusedError: it is not one the model takes.
        """
        self._check_as_core(message)
        raw = {one.name: data for one, data in zip(message.inputs, message.raw_input_contents, strict=True)}
        tensors = {
            one.name: np.frombuffer(raw[one.name], _NUMPY[one.datatype]).reshape(tuple(one.shape))
            for one in message.inputs
            if one.datatype in _NUMPY
        }
        try:
            if is_stop(tensors):
                return _stop(message.id)
            _require_outputs({one.name for one in message.outputs})
            generation, options = read_request(tensors, exclude_input_default=False)
        except RequestError as error:
            raise RefusedError("backend", str(error)) from None
        return Request(
            request_id=message.id,
            input_ids=raw["input_ids"],
            max_tokens=generation.max_new_tokens,
            end_token=generation.end_token_id,
            streaming=options.streaming,
            stop=False,
            lora_id=generation.adapter.task_id if generation.adapter else None,
            has_weights="lora_weights" in raw,
            echo=tuple(generation.prompt) if options.echo_prompt else (),
        )

    def _check_as_core(self, message: Any) -> None:
        if message.model_name != MODEL_NAME:
            text = f"Request for unknown model: '{message.model_name}' is not found"
            raise _core(text)
        for one in message.inputs[len(message.raw_input_contents) :]:
            raise _core(
                f"unable to find data for input tensor '{one.name}' for model '{MODEL_NAME}' in request."
            )
        for one in message.inputs:
            if one.name not in self._inputs:
                raise _core(f"unexpected inference input '{one.name}' for model '{MODEL_NAME}'")
        mark = f"[request id: {message.id or '<id_unknown>'}] "
        by_name = sorted(message.inputs, key=lambda one: str(one.name))
        for one in by_name:
            if one.shape[:1] != by_name[0].shape[:1]:
                raise _core(
                    f"{mark}input '{one.name}' batch size does not match other inputs for '{MODEL_NAME}'"
                )
        for one in by_name:
            datatype, dims = self._inputs[one.name]
            if one.datatype != datatype:
                raise _core(
                    f"{mark}inference input '{one.name}' data-type is '{one.datatype}', "
                    f"but model '{MODEL_NAME}' expects '{datatype}'"
                )
            shape = tuple(one.shape[1:])
            if len(shape) != len(dims) or any(
                wanted not in (-1, size) for wanted, size in zip(dims, shape, strict=True)
            ):
                raise _core(
                    f"{mark}unexpected shape for input '{one.name}' for model '{MODEL_NAME}'. "
                    f"Expected {_dims((-1, *dims))}, got {_dims(tuple(one.shape))}. NOTE:{self._shape_note}"
                )
        sizes = {
            one.name: (prod(one.shape) * np.dtype(_NUMPY[one.datatype]).itemsize, len(data))
            for one, data in zip(message.inputs, message.raw_input_contents, strict=True)
            if one.datatype in _NUMPY
        }
        for name, (wanted, got) in sorted(sizes.items()):
            if wanted != got:
                raise _core(
                    f"{mark}input byte size mismatch for input '{name}' for model '{MODEL_NAME}'. "
                    f"Expected {wanted}, got {got}"
                )


def _stop(request_id: str) -> Request:
    if not request_id:
        raise RequestError("Trying to stop a request but request ID is not provided")
    return Request(request_id, b"", 0, None, streaming=False, stop=True, lora_id=None, has_weights=False)


def _require_outputs(asked_for: set[str]) -> None:
    for name in _REQUIRED_OUTPUTS:
        if asked_for and name not in asked_for:
            raise RequestError(f"{name} tensor must be present in list of output tensors")


def _wire_name(config_name: str) -> str:
    return "BYTES" if config_name == "TYPE_STRING" else config_name.removeprefix("TYPE_")


def _dims(shape: tuple[int, ...]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


def _core(text: str) -> RefusedError:
    return RefusedError("core", text)
