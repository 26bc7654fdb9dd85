"""The scripted server: KServe's gRPC service over raw bytes."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
from tritonclient.grpc import service_pb2 as pb

from tests.fakes.scripted_triton.batch import Batch
from tests.fakes.scripted_triton.frames import Frames
from tests.fakes.scripted_triton.generation import EngineError, Generation, StreamFailure
from tests.fakes.scripted_triton.recordings import read_description
from tests.fakes.scripted_triton.request import RefusedError, Request, RequestReader
from tests.fakes.scripted_triton.scenarios import MODEL_NAME
from tests.fakes.scripted_triton.script import Fault, Script
from triton_models.cpu_engine.adapter_cache import AdapterCache
from triton_models.cpu_engine.errors import AdapterCacheFullError, AdapterMissError

_SERVICE = "inference.GRPCInferenceService"
_MAX_REQUEST_BYTES = (1 << 31) - 1

Send = Callable[[bytes], Awaitable[None]]


@dataclass(slots=True)
class Counts:
    """What the server has seen."""

    requests: int = 0
    stops: int = 0
    """Of the requests: those that end another one."""
    answered: int = 0
    cancelled: int = 0
    misses: int = 0
    adapter_loads: int = 0
    running: int = 0
    most_running: int = 0


class ScriptedTriton:
    """`async with ScriptedTriton(script) as triton: triton.target`; the script may be changed meanwhile."""

    def __init__(self, script: Script | None = None, *, adapter_slots: int = 8, listen: str = "") -> None:
        self.counts = Counts()
        self.idle = asyncio.Event()
        """Set while no answer runs."""
        self.idle.set()
        self.ready = True
        self._listen = listen
        self._frames = Frames()
        self._reader = RequestReader(self._frames.shape_note)
        self._adapters = AdapterCache(adapter_slots)
        self._running: dict[str, Generation] = {}
        self._numbers = itertools.count(1)
        self.script = script or Script()

    @property
    def script(self) -> Script:
        """How requests are answered from now on."""
        return self._script

    @script.setter
    def script(self, script: Script) -> None:
        self._script = script
        self._faults_left = float("inf") if script.fault_requests is None else script.fault_requests
        self._batch = None if script.batching is None else Batch(script.batching)

    async def __aenter__(self) -> Self:
        """Listen; without an address, on a Unix socket of its own."""
        self._folder = Path(tempfile.mkdtemp(prefix="triton-"))
        self.target = self._listen or f"unix:{self._folder}/grpc.sock"
        self._server = grpc.aio.server(options=[("grpc.max_receive_message_length", _MAX_REQUEST_BYTES)])
        self._server.add_generic_rpc_handlers((self._methods(),))
        self._server.add_insecure_port(self.target)
        await self._server.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._server.stop(0)
        shutil.rmtree(self._folder)

    def _methods(self) -> grpc.GenericRpcHandler:
        unary = grpc.unary_unary_rpc_method_handler
        return grpc.method_handlers_generic_handler(
            _SERVICE,
            {
                "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(self._model_stream_infer),
                "ModelInfer": unary(self._model_infer),
                "ServerLive": unary(_constant(pb.ServerLiveResponse(live=True))),
                "ServerReady": unary(self._server_ready),
                "ModelReady": unary(self._model_ready),
                "ModelMetadata": unary(self._model_metadata),
                "ModelConfig": unary(self._model_config),
            },
        )

    async def _server_ready(self, raw: bytes, context: Any) -> bytes:
        return bytes(pb.ServerReadyResponse(ready=self.ready).SerializeToString())

    async def _model_ready(self, raw: bytes, context: Any) -> bytes:
        known = pb.ModelReadyRequest.FromString(raw).name == MODEL_NAME
        return bytes(pb.ModelReadyResponse(ready=self.ready and known).SerializeToString())

    async def _model_metadata(self, raw: bytes, context: Any) -> bytes:
        return await _described("model_metadata", pb.ModelMetadataRequest.FromString(raw).name, context)

    async def _model_config(self, raw: bytes, context: Any) -> bytes:
        return await _described("model_config", pb.ModelConfigRequest.FromString(raw).name, context)

    async def _model_infer(self, raw: bytes, context: Any) -> bytes:
        return await context.abort(grpc.StatusCode.UNIMPLEMENTED, self._frames.unary_refusal)  # type: ignore[no-any-return]  # never returns

    async def _model_stream_infer(self, requests: AsyncIterator[bytes], context: Any) -> None:
        as_status = ("triton_grpc_error", "true") in (context.invocation_metadata() or ())
        failure: StreamFailure | None = None
        one_at_a_time = asyncio.Lock()

        async def send(frame: bytes) -> None:
            async with one_at_a_time:
                await context.write(frame)

        try:
            # Requests of one stream run side by side, as in Triton.
            async with asyncio.TaskGroup() as group:
                async for raw in requests:
                    group.create_task(self._answer(raw, send, as_status=as_status))
        except* StreamFailure as failures:
            (failure, *_) = failures.exceptions  # type: ignore[assignment]  # each is a StreamFailure
        if failure is not None:
            await context.abort(failure.code, failure.text)

    async def _answer(self, raw: bytes, send: Send, *, as_status: bool) -> None:
        message = pb.ModelInferRequest.FromString(raw)
        number = next(self._numbers)
        self.counts.requests += 1
        try:
            request = self._reader.read(message)
            if request.stop:
                await self._stop(request, send)
            else:
                await self._generate(request, send)
        except RefusedError as refusal:
            if refusal.of == "core":
                # Refused before there is a request: told as text, whatever the client asked for.
                await send(self._frames.core_error(message.id, refusal.text))
                return
            await _fail(
                send, self._frames.backend_error(message.id, refusal.text), refusal.text, as_status=as_status
            )
        except (AdapterMissError, AdapterCacheFullError, EngineError) as error:
            frame, text = self._frames.engine_error(message.id, number, str(error))
            await _fail(send, frame, text, as_status=as_status)

    async def _stop(self, request: Request, send: Send) -> None:
        self.counts.stops += 1
        running = self._running.get(request.request_id)
        if running is not None:
            running.stop.set()
        await send(self._frames.empty_final(request.request_id))

    async def _generate(self, request: Request, send: Send) -> None:
        if not request.input_ids:
            raise EngineError("input_ids is empty")
        if request.max_tokens <= 0:
            raise EngineError(f"Invalid request_output_len ({request.max_tokens}). It must be > 0")
        fault = self._take_fault(request)
        if request.lora_id is not None:
            self._acquire(request.lora_id, request, fault)
        batch = self._batch
        generation = Generation(self._script, request, fault, self._frames, batch)
        if request.request_id:
            self._running[request.request_id] = generation
        self.counts.running += 1
        self.counts.most_running = max(self.counts.most_running, self.counts.running)
        self.idle.clear()
        try:
            async with nullcontext() if batch is None else batch.slot():
                await generation.run(send)
            self.counts.answered += 1
        except asyncio.CancelledError:
            self.counts.cancelled += 1
            raise
        finally:
            self.counts.running -= 1
            if not self.counts.running:
                self.idle.set()
            if self._running.get(request.request_id) is generation:
                del self._running[request.request_id]
            if request.lora_id is not None:
                self._adapters.release(request.lora_id)

    def _take_fault(self, request: Request) -> Fault | None:
        fault = self._script.fault
        about_adapters = fault is Fault.MISS or fault is Fault.FULL
        if fault is None or self._faults_left <= 0 or (about_adapters and request.lora_id is None):
            return None
        if fault is Fault.MISS and request.has_weights:
            return None
        self._faults_left -= 1
        return fault

    def _acquire(self, lora_id: int, request: Request, fault: Fault | None) -> None:
        if fault is Fault.FULL:
            raise AdapterCacheFullError(lora_id)
        if fault is Fault.MISS or (not request.has_weights and lora_id not in self._adapters):
            self.counts.misses += 1
            raise AdapterMissError(lora_id)
        if lora_id not in self._adapters:
            self._adapters.put(lora_id)
            self.counts.adapter_loads += 1
            if self._batch is not None:
                self._batch.load_adapter()
        self._adapters.acquire(lora_id)


async def _fail(send: Send, frame: bytes, text: str, *, as_status: bool) -> None:
    if as_status:
        raise StreamFailure(grpc.StatusCode.INTERNAL, text)
    await send(frame)


async def _described(name: str, model: str, context: Any) -> bytes:
    if model != MODEL_NAME:
        await context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{model}' is not found")
    return read_description(name)


def _constant(message: Any) -> Callable[[bytes, Any], Awaitable[bytes]]:
    raw = bytes(message.SerializeToString())

    async def method(request: bytes, context: Any) -> bytes:
        return raw

    return method
