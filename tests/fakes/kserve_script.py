"""A KServe server that plays one written scene: for what a real server cannot be made to do on demand."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as rpc

Scene = Callable[[Any, Callable[[Any], Awaitable[None]]], Awaitable[None]]
"""Gets the request and a way to send; returns to end the stream."""


def tokens(request_id: str, ids: list[int], *, final: bool = False, bare: bool = False) -> Any:
    """A response of TensorRT-LLM's engine backend; `bare` is the empty final that core sends."""
    response = pb.ModelInferResponse(id=request_id)
    response.parameters["triton_final_response"].bool_param = final
    if not bare:
        response.outputs.add(name="output_ids", datatype="INT32", shape=[1, 1, len(ids)])
        response.raw_output_contents.append(struct.pack(f"<{len(ids)}i", *ids))
        response.outputs.add(name="sequence_length", datatype="INT32", shape=[1, 1])
        response.raw_output_contents.append(struct.pack("<i", len(ids)))
    return pb.ModelStreamInferResponse(infer_response=response)


def failure(text: str) -> Any:
    return pb.ModelStreamInferResponse(error_message=text)


class ScriptedKServe(rpc.GRPCInferenceServiceServicer):
    """Plays `scene` for every request, until its stream is cancelled or a `stop` of the same id ends it."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.requests: list[Any] = []
        self.cancelled = asyncio.Event()
        """A stream was cancelled."""
        self.stopped = asyncio.Event()
        """A request was stopped by message."""
        self.heeds_stop = True
        self._running: dict[str, asyncio.Task[None]] = {}
        self.ready = True
        self.hang = False

    async def ServerReady(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        if self.hang:
            await asyncio.Event().wait()
        return pb.ServerReadyResponse(ready=True)

    async def ModelReady(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        return pb.ModelReadyResponse(ready=self.ready and request.name == "tensorrt_llm")

    async def ModelStreamInfer(
        self, request_iterator: AsyncIterator[Any], context: grpc.aio.ServicerContext
    ) -> None:
        async for request in request_iterator:
            if any(tensor.name == "stop" for tensor in request.inputs):
                await self._stop(request.id)
                await context.write(tokens(request.id, [], final=True, bare=True))
                continue
            self.requests.append(request)
            running = self._running[request.id] = asyncio.ensure_future(self.scene(request, context.write))
            try:
                await asyncio.wait({running})
            except asyncio.CancelledError:
                running.cancel()
                self.cancelled.set()
                raise
            finally:
                del self._running[request.id]
            if running.cancelled():
                await context.write(tokens(request.id, [], final=True))
            else:
                running.result()

    async def _stop(self, request_id: str) -> None:
        running = self._running.get(request_id)
        if running is not None and self.heeds_stop:
            running.cancel()
            self.stopped.set()


async def serve_kserve(target: str, servicer: ScriptedKServe) -> grpc.aio.Server:
    server = grpc.aio.server()
    rpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    server.add_insecure_port(target)
    await server.start()
    return server
