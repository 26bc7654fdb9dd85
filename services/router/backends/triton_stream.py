"""One `ModelStreamInfer` stream a request: cancelling the stream cancels just that request.

Decoupled models answer on streams only. Errors come as text inside a stream whose status is OK, or as the
stream's status when the connection fails; both become typed failures here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import grpc

from services.router.backends import trtllm_engine
from services.router.backends.backend import (
    BackendRejectedError,
    BackendUnavailableError,
    DispatchRequest,
    TokenChunk,
)
from services.router.backends.channels import EndpointChannels

# What a server that is gone, going or overloaded answers; anything else is about the request.
_UNAVAILABLE = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
_END_SECONDS = 0.5


class TritonStreamBackend:
    """Speaks the engine dialect over streams."""

    def __init__(self, channels: EndpointChannels) -> None:
        self._channels = channels

    async def generate(
        self, target: str, request: DispatchRequest, timeout_seconds: float
    ) -> AsyncGenerator[TokenChunk, None]:
        """Generate; see `Backend.generate`."""
        message = trtllm_engine.encode(request)
        call = self._channels.stub(target).ModelStreamInfer(timeout=timeout_seconds)
        answered = False
        try:
            await call.write(message)
            await call.done_writing()
            while (answer := await call.read()) is not grpc.aio.EOF:
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
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Nobody cancelled us: a channel that closes under a call makes whoever reads it look cancelled.
            raise BackendUnavailableError("the channel was closed", broken=True) from None
        finally:
            try:
                if answered:
                    await _ended(call)
            finally:
                # A stream that is not over is work nobody waits for: the server stops within its next poll.
                call.cancel()
        raise BackendUnavailableError("the stream ended before its final response", broken=True)


async def _ended(call: Any) -> None:
    """Let the server end a stream it has answered.

    Cancelling it at that very moment makes tritonserver 2.51 keep the request, and wait for it when it stops.
    """
    try:
        async with asyncio.timeout(_END_SECONDS):
            while await call.read() is not grpc.aio.EOF:
                pass
    except (TimeoutError, grpc.aio.AioRpcError):
        pass
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # The channel was closed under the call: the answer is whole all the same.
