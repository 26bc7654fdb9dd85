"""The Triton shell of the CPU twin: tensors in, engine thread, responses out."""  # noqa: INP001 -- Triton's layout

from __future__ import annotations

import itertools
import json
import os
import weakref
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from triton_models.cpu_engine.engine import TokenEvent
from triton_models.cpu_engine.engine_thread import EngineThread
from triton_models.cpu_engine.errors import RequestError
from triton_models.cpu_engine.request_tensors import INPUT_NAMES, ResponseOptions, is_stop, read_request
from triton_models.cpu_engine.server_watch import ParentGuard, ServerWatch, exit_with_parent, stop_parent
from triton_models.cpu_engine.twin import TwinParameters, build_engine

_FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
_START_TIMEOUT_SECONDS = 120.0
_STOP_TIMEOUT_SECONDS = 3.0
_REQUIRED_OUTPUTS = ("output_ids", "sequence_length")


class TritonPythonModel:
    """Model `tensorrt_llm` as TensorRT-LLM's engine backend shows it."""

    def initialize(self, args: dict[str, str]) -> None:
        """Build the engine before Triton calls the model ready."""
        exit_with_parent()
        server = os.getppid()
        config = json.loads(args["model_config"])
        text = {name: value["string_value"] for name, value in config["parameters"].items()}
        self._parameters = TwinParameters.parse(text)
        self._numbers = itertools.count(1)
        self._by_triton_id: weakref.WeakValueDictionary[str, _Answer] = weakref.WeakValueDictionary()
        self._engine = EngineThread(
            build=lambda: build_engine(self._parameters),
            watch=ServerWatch(self._parameters.http_port),
            max_inbox=self._parameters.max_waiting,
            on_death=lambda error: _leave(server, error),
        )
        self._engine.start(_START_TIMEOUT_SECONDS)
        self._guard = ParentGuard(
            server
        )  # not before: Triton itself notices a stub that dies while it starts

    def execute(self, requests: list[Any]) -> None:
        """Hand the requests to the engine; it answers through their response senders."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                self._accept(request, sender)
            except RequestError as error:
                _send_error(sender, str(error))

    def finalize(self) -> None:
        """Stop the engine."""
        self._engine.close(_STOP_TIMEOUT_SECONDS)
        self._guard.release()

    def _accept(self, request: Any, sender: Any) -> None:
        tensors = {}
        for name in INPUT_NAMES:
            tensor = pb_utils.get_input_tensor_by_name(request, name)
            if tensor is not None:
                # Copied: the request's shared memory is Triton's again as soon as `execute` returns.
                tensors[name] = tensor.as_numpy().copy()
        triton_id = request.request_id()
        if is_stop(tensors):
            self._stop(triton_id, sender)
            return
        for output in _REQUIRED_OUTPUTS:
            if output not in request.requested_output_names():
                raise RequestError(f"{output} tensor must be present in list of output tensors")
        generation, options = read_request(
            tensors, exclude_input_default=self._parameters.exclude_input_in_output
        )
        answer = _Answer(next(self._numbers), sender, options, generation.prompt)
        if triton_id:
            self._by_triton_id[triton_id] = (
                answer  # a second request of the same id takes the first one's place
            )
        self._engine.add(answer.number, generation, answer)

    def _stop(self, triton_id: str, sender: Any) -> None:
        if not triton_id:
            raise RequestError("Trying to stop a request but request ID is not provided")
        answer = self._by_triton_id.get(triton_id)
        if answer is not None:
            self._engine.stop(answer.number)
        sender.send(pb_utils.InferenceResponse(output_tensors=[]), flags=_FINAL)


class _Answer:
    """Turns one request's events into Triton responses."""

    def __init__(self, number: int, sender: Any, options: ResponseOptions, prompt: Any) -> None:
        self.number = number
        self._sender = sender
        self._options = options
        self._prompt_tokens = len(prompt)
        self._held = list(prompt) if options.echo_prompt else []
        self._new_tokens = 0

    def cancelled(self) -> bool:
        return bool(self._sender.is_cancelled())

    def on_event(self, event: TokenEvent) -> None:
        if event.token is not None:
            self._held.append(event.token)
            self._new_tokens += 1
        if self._options.streaming or event.finished:
            self._send(final=event.finished)

    def on_stopped(self) -> None:
        self._send(final=True)

    def on_error(self, message: str) -> None:
        wrapped = f"Executor failed process requestId {self.number} due to the following error: {message}"
        _send_error(self._sender, wrapped)

    def _send(self, *, final: bool) -> None:
        tokens, self._held = self._held, []
        new_tokens, self._new_tokens = self._new_tokens, 0
        tensors = [
            pb_utils.Tensor("output_ids", np.array(tokens, np.int32).reshape(1, 1, -1)),
            pb_utils.Tensor("sequence_length", np.array([[len(tokens)]], np.int32)),
        ]
        if self._options.return_num_input_tokens:
            tensors.append(pb_utils.Tensor("num_input_tokens", np.array([[self._prompt_tokens]], np.int32)))
        if self._options.return_num_output_tokens:
            tensors.append(pb_utils.Tensor("num_output_tokens", np.array([[new_tokens]], np.int32)))
        self._sender.send(pb_utils.InferenceResponse(output_tensors=tensors), flags=_FINAL if final else 0)


def _send_error(sender: Any, message: str) -> None:
    error = pb_utils.TritonError(message, pb_utils.TritonError.INTERNAL)
    sender.send(pb_utils.InferenceResponse(error=error), flags=_FINAL)


def _leave(server: int, error: BaseException) -> None:
    pb_utils.Logger.log_error(f"the engine has failed, the server stops: {error!r}")
    stop_parent(server)
