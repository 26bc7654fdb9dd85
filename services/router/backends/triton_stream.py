"""Runs one `ModelStreamInfer` stream for each request, and stops by message what is left unread.

Decoupled models answer on streams only. Errors come as text inside a stream whose status is OK, or as the stream's
status when the connection fails; both become typed failures here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from types import TracebackType
from typing import Self

import grpc

from services.common.rpc.interceptors import where
from services.router.backends import trtllm_engine
from services.router.backends.backend import (
    BackendUnavailableError,
    DispatchRequest,
    ForeignAnswerError,
    Linger,
    TokenChunk,
    unwatched,
)
from services.router.backends.channels import EndpointChannels
from services.router.backends.infer_stream import InferStream

_log = logging.getLogger(__name__)

# The statuses of a server that is gone, going or overloaded; any other is about the request.
_UNAVAILABLE = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
# As long as a server may take to notice: it may be in the middle of many long prompts.
_END_SECONDS = 5.0
_CLOSE_SECONDS = 2.0
# Streams that were left and have not ended yet. With more than this a server evidently does not end them.
_MAX_ENDING = 4096


class TritonStreamBackend:
    """Speaks the engine dialect over streams; owns every stream until the server has ended it.

    Args:
        channels: to the endpoints; must outlive this.
        end_seconds: how long a server may take to end a stream that was left.
    """

    def __init__(self, channels: EndpointChannels, end_seconds: float = _END_SECONDS) -> None:
        self._channels = channels
        self._end_seconds = end_seconds
        self._tasks: set[asyncio.Task[None]] = set()
        self._ending = 0

    async def generate(
        self, target: str, request: DispatchRequest, timeout_seconds: float, linger: Linger = unwatched
    ) -> AsyncGenerator[TokenChunk, None]:
        """Generate; see `Backend.generate`."""
        message = trtllm_engine.encode(request)
        # The deadline of the call cancels it, so it is later than all other ends.
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
                    raise ForeignAnswerError("a response to another request")
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
                if answered:
                    self._end(target, stream, running, None, None)
                else:
                    self._end(target, stream, running, trtllm_engine.encode_stop(request), linger())
        raise BackendUnavailableError("the stream ended before its final response", broken=True)

    def _end(
        self,
        target: str,
        stream: InferStream,
        running: asyncio.Task[None],
        stop: bytes | None,
        ended: Callable[[bool], None] | None,
    ) -> None:
        """End a stream that was left; `stop` is the message for a server that still works on the request."""
        if self._ending >= _MAX_ENDING:
            stream.cut_off()
            if ended is not None:
                ended(False)
            return
        self._ending += 1
        ending = self._own(self._ended(target, stream, running, stop, ended), "end of a model server stream")
        ending.add_done_callback(self._count_ended)

    def _count_ended(self, _: asyncio.Task[None]) -> None:
        self._ending -= 1

    async def _ended(
        self,
        target: str,
        stream: InferStream,
        running: asyncio.Task[None],
        stop: bytes | None,
        ended: Callable[[bool], None] | None,
    ) -> None:
        in_time = True

        def cut_off() -> None:
            nonlocal in_time
            in_time = False
            stream.cut_off()

        cut = asyncio.get_running_loop().call_later(self._end_seconds, cut_off)
        try:
            if stop is not None:
                stopping = InferStream(self._channels.infer_stream(target)(timeout=self._end_seconds))
                stopping.leave()
                await stopping.run(stop)
            await asyncio.wait({running})
        finally:
            cut.cancel()
            if ended is not None:
                ended(in_time)

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
        """Give the streams time to end; cut off the rest."""
        running = set(self._tasks)
        try:
            if running:
                await asyncio.wait(running, timeout=min(self._end_seconds, _CLOSE_SECONDS))
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
