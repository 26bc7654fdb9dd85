"""A real tritonserver with the CPU twin, and a plain client of its protocol."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.fakes.ports import own_ports
from triton_models.cpu_engine.launch import (
    MODEL_NAME,
    TwinSettings,
    assemble,
    remove_leftover_memory,
    triton_command,
)
from triton_models.cpu_engine.preparation import PreparedModel

_READY_SECONDS = 60.0
_STOP_SECONDS = 10.0
_CALL_SECONDS = 60.0
_DTYPES = {
    "int32": "INT32",
    "uint64": "UINT64",
    "bool": "BOOL",
    "float32": "FP32",
    "float16": "FP16",
}


@dataclass
class Reply:
    """Everything one request was answered with."""

    responses: list[dict[str, npt.NDArray[Any]]] = field(default_factory=list)
    finals: list[bool] = field(default_factory=list)
    error: str | None = None

    @property
    def tokens(self) -> list[int]:
        return [token for one in self.responses for token in one["output_ids"].ravel().tolist()]


class TwinClient:
    """A plain client of a server with the twin; `generate` blocks until the answer is whole."""

    def __init__(self, target: str) -> None:
        self.target = target
        self._channel = grpc.insecure_channel(target)
        self.stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def stream(
        self, tensors: Mapping[str, npt.NDArray[Any]], request_id: str = "", outputs: Sequence[str] = ()
    ) -> Any:
        """Open a stream with one request; the caller reads it to its end, after `stop` where it will not wait."""
        request = service_pb2.ModelInferRequest(model_name=MODEL_NAME, id=request_id)
        request.parameters["triton_enable_empty_final_response"].bool_param = True
        for name in outputs:
            request.outputs.add(name=name)
        for name, array in tensors.items():
            request.inputs.add(name=name, datatype=_DTYPES[str(array.dtype)], shape=array.shape)
            request.raw_input_contents.append(array.tobytes())
        return self.stub.ModelStreamInfer(iter([request]), timeout=_CALL_SECONDS)

    def generate(
        self, prompt: Sequence[int], new_tokens: int, request_id: str = "", **tensors: npt.NDArray[Any]
    ) -> Reply:
        """Send one request and read its answer, which leaves the prompt out unless `tensors` say otherwise."""
        usual = prompt_tensors(prompt, new_tokens) | {"exclude_input_in_output": scalar(True, bool)}
        return read(self.stream(usual | tensors, request_id))

    def stop(self, request_id: str) -> Reply:
        """End a running request by another one, as a router does.

        Not by cancelling its call: where that meets the last response, Triton 2.51 can crash.
        """
        return read(self.stream(prompt_tensors([1], 1) | {"stop": scalar(True, bool)}, request_id))

    def is_ready(self) -> bool:
        try:
            answer = self.stub.ModelReady(service_pb2.ModelReadyRequest(name=MODEL_NAME), timeout=1)
        except grpc.RpcError:
            return False
        return bool(answer.ready)

    def close(self) -> None:
        self._channel.close()


class TwinServer(TwinClient):
    """A running server of a test's own."""

    def __init__(self, process: subprocess.Popen[bytes], settings: TwinSettings, log_path: Path) -> None:
        super().__init__(f"127.0.0.1:{settings.grpc_port}")
        self.process = process
        self.settings = settings
        self.log_path = log_path

    def log(self) -> str:
        return self.log_path.read_text("utf-8", "replace")


def scalar(value: float, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """A tensor of one value with the batch axis."""
    return np.array([[value]], dtype)


def prompt_tensors(prompt: Sequence[int], new_tokens: int) -> dict[str, npt.NDArray[Any]]:
    return {
        "input_ids": np.array([list(prompt)], np.int32),
        "input_lengths": scalar(len(prompt), np.int32),
        "request_output_len": scalar(new_tokens, np.int32),
    }


def read(stream: Any) -> Reply:
    """Read a stream to its end.

    Not cancelled after the final response: that races with the server's own end of the stream, and when it wins
    the server keeps the request for good; it leaks, and a later stop waits out its whole deadline and exits with 1.
    """
    reply = Reply()
    for message in stream:
        if message.error_message:
            reply.error = message.error_message
            continue
        response = message.infer_response
        if response.outputs:
            reply.responses.append(outputs_of(response))
            reply.finals.append(response.parameters["triton_final_response"].bool_param)
    return reply


def outputs_of(response: Any) -> dict[str, npt.NDArray[Any]]:
    return {
        output.name: np.frombuffer(raw, np.int32).reshape(tuple(output.shape))
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }


@contextmanager
def running_twin(
    model: PreparedModel,
    state_directory: Path,
    overrides: Mapping[str, int] | None = None,
    sabotage: str = "",
) -> Iterator[TwinServer]:
    """Start a server with the twin, wait until it is ready, and stop it in the end.

    `overrides` are fields of `TwinSettings`; `sabotage` is Python added to this server's copy of the model.
    """
    grpc_port, http_port, metrics_port = own_ports(3)
    settings = TwinSettings(
        model_directory=model.directory,
        state_directory=state_directory,
        grpc_port=grpc_port,
        http_port=http_port,
        metrics_port=metrics_port,
        shm_prefix=f"tenantry_test_{os.getpid()}_{grpc_port}_",
        **(overrides or {}),
    )
    assemble(settings)
    model_file = state_directory / "models" / MODEL_NAME / "1" / "model.py"
    model_file.write_text(model_file.read_text("utf-8") + sabotage, "utf-8")
    command = triton_command(settings)
    log_path = state_directory / "tritonserver.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(command.argv, env=command.env, stdout=log, stderr=subprocess.STDOUT)
    server = TwinServer(process, settings, log_path)
    try:
        deadline = time.monotonic() + _READY_SECONDS
        while not server.is_ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"tritonserver did not get ready:\n{server.log()[-4000:]}")
            time.sleep(0.05)
        yield server
    finally:
        server.close()
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        finally:
            process.kill()
            process.wait()
            remove_leftover_memory(settings.shm_prefix)
