"""Reads a request, and refuses what Triton's core and the model's shell refuse, in their order and words."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from tritonclient.grpc import model_config_pb2
from tritonclient.grpc import service_pb2 as pb

from tests.fakes.scripted_triton.recordings import read_description
from tests.fakes.scripted_triton.scenarios import MODEL_NAME

_REQUIRED_OUTPUTS = ("output_ids", "sequence_length")


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


class RequestReader:
    """Knows the model's inputs from the recorded config."""

    def __init__(self, shape_note: str) -> None:
        config = pb.ModelConfigResponse.FromString(read_description("model_config")).config
        kind = model_config_pb2.DataType.Name
        self._inputs = {
            one.name: (kind(one.data_type).removeprefix("TYPE_"), tuple(one.dims)) for one in config.input
        }
        self._shape_note = shape_note

    def read(self, message: Any) -> Request:
        """Read a `ModelInferRequest`.

        Raises:
            RefusedError: it is not one the model takes.
        """
        self._check_as_core(message)
        raw = dict(zip((one.name for one in message.inputs), message.raw_input_contents, strict=True))
        request = Request(
            request_id=message.id,
            input_ids=raw.get("input_ids", b""),
            max_tokens=_int32(raw, "request_output_len") or 0,
            end_token=_int32(raw, "end_id"),
            streaming=_flag(raw, "streaming"),
            stop=_flag(raw, "stop"),
            lora_id=struct.unpack("<Q", raw["lora_task_id"])[0] if "lora_task_id" in raw else None,
            has_weights="lora_weights" in raw,
        )
        _check_as_backend(request, raw, {one.name for one in message.outputs})
        return request

    def _check_as_core(self, message: Any) -> None:
        if message.model_name != MODEL_NAME:
            text = f"Request for unknown model: '{message.model_name}' is not found"
            raise _core(text)
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


def _check_as_backend(request: Request, raw: dict[str, bytes], outputs: set[str]) -> None:
    if request.stop:
        if not request.request_id:
            raise _backend("Trying to stop a request but request ID is not provided")
        return
    for name in _REQUIRED_OUTPUTS:
        if outputs and name not in outputs:
            raise _backend(f"{name} tensor must be present in list of output tensors")
    if "input_ids" not in raw:
        raise _backend("input_ids or encoder_input_features is not present in the request")
    if request.lora_id is None and ("lora_weights" in raw or "lora_config" in raw):
        raise _backend("lora_task_id must be set for LoRA inference")
    if ("lora_weights" in raw) != ("lora_config" in raw):
        raise _backend("Request for LoRA inference must have both lora_weights and lora_keys")


def _int32(raw: dict[str, bytes], name: str) -> int | None:
    return struct.unpack("<i", raw[name])[0] if name in raw else None


def _flag(raw: dict[str, bytes], name: str) -> bool:
    return raw.get(name, b"\x00") != b"\x00"


def _dims(shape: tuple[int, ...]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


def _core(text: str) -> RefusedError:
    return RefusedError("core", text)


def _backend(text: str) -> RefusedError:
    return RefusedError("backend", text)
