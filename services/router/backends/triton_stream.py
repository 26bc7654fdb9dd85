"""One `ModelStreamInfer` stream a request; a request that nobody waits for is stopped by message.

Decoupled models answer on streams only. Errors come as text inside a stream whose status is OK, or as the
stream's status when the connection fails; both become typed failures here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine
from types import TracebackType
from typing import Self

import grpc

from services.common.rpc.interceptors import where
from services.router.backends import trtllm_engine
from services.router.backends.backend import (
    BackendRejectedError,
    BackendUnavailableError,
    DispatchRequest,
    TokenChunk,
)
from services.router.backends.channels import EndpointChannels
from services.router.backends.infer_stream import InferStream

_log = logging.getLogger(__name__)

# What a server that is gone, going or overloaded answers; anything else is about the request.
_UNAVAILABLE = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
_END_SECONDS = 2.0
# Streams on their way to their end. More than a server with so many places can have left behind: it does not end them.
_MAX_LEFT = 4096


class TritonStreamBackend:
    """Speaks the engine dialect over streams; owns every stream until the server has ended it.

    Args:
        channels: to the endpoints; must outlive this.
        end_seconds: what a server is given to end a stream that nobody reads any more.
    """

    def __init__(self, channels: EndpointChannels, end_seconds: float = _END_SECONDS) -> None:
        self._channels = channels
        self._end_seconds = end_seconds
        self._tasks: set[asyncio.Task[None]] = set()
        self._left = 0

    async def generate(
        self, target: str, request: DispatchRequest, timeout_seconds: float
    ) -> AsyncGenerator[TokenChunk, None]:
        """Generate; see `Backend.generate`."""
        message = trtllm_engine.encode(request)
        # The call's own deadline would cancel it: it only cuts off what nothing else has ended.
        call = self._channels.infer_stream(target)(timeout=timeout_seconds + 2 * self._end_seconds)
        stream = InferStream(call)
        running = self._own(stream.run(message), "model server stream")
        expiry = asyncio.get_running_loop().call_later(timeout_seconds, stream.expire)
        answered = False
        try:
            while (answer := await stream.read()) is not None:
                if answer.error_message:
                    answered = True
                    raise trtllm_engine.failure(answer.error_message, request)
                response = answer.infer_response
                if response.id != request.request_id:
                    raise BackendRejectedError("a response to another request")
                chunk = trtllm_engine.decode(response)
                answered = chunk.final
                yield chunk
                if answered:
                    return
        except grpc.aio.AioRpcError as error:
            if error.code() in _UNAVAILABLE:
                broken = error.code() is grpc.StatusCode.UNAVAILABLE
                raise BackendUnavailableError(f"stream ended: {error.code().name}", broken=broken) from None
            raise trtllm_engine.failure(error.details() or "", request) from None
        finally:
            expiry.cancel()
            stream.leave()
            if not running.done():
                self._end(target, stream, running, None if answered else trtllm_engine.encode_stop(request))
        raise BackendUnavailableError("the stream ended before its final response", broken=True)

    def _end(self, target: str, stream: InferStream, running: asyncio.Task[None], stop: bytes | None) -> None:
        """Bring a stream that was left to its end: by a message where the server still works on the request."""
        if self._left >= _MAX_LEFT:
            stream.cut_off()
            return
        self._left += 1
        ending = self._own(self._ended(target, stream, running, stop), "end of a model server stream")
        ending.add_done_callback(self._count_ended)

    def _count_ended(self, _: asyncio.Task[None]) -> None:
        self._left -= 1

    async def _ended(
        self, target: str, stream: InferStream, running: asyncio.Task[None], stop: bytes | None
    ) -> None:
        cut = asyncio.get_running_loop().call_later(self._end_seconds, stream.cut_off)
        try:
            if stop is not None:
                stopping = InferStream(self._channels.infer_stream(target)(timeout=self._end_seconds))
                stopping.leave()
                await stopping.run(stop)
            await asyncio.wait({running})
        finally:
            cut.cancel()

    def _own(self, coroutine: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._over)
        return task

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("%s died: %s at %s", task.get_name(), type(error).__name__, where(error))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let what was left end; cut off the rest."""
        left = set(self._tasks)
        try:
            if left:
                await asyncio.wait(left, timeout=self._end_seconds)
        finally:
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
