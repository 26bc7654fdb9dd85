"""Runs one `ModelStreamInfer` call in a task of its own, so that its reader can leave without cancelling it.

Cancelling the call while the server answers it can crash tritonserver: before release 25.05 the end of an answer races
with the cancellation (triton-inference-server/server issue 8034). A caller that hangs up must not end the answers of
others, so the reader leaves, the request is stopped by message, and the call is read to its end. Only a server that
does not end it in time is cut off.

The task is there because a reader that is cancelled inside grpc.aio's `read` or `write` cancels the call.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import grpc

from services.router.backends.backend import BackendUnavailableError

# Read ahead of a slow reader; beyond it HTTP/2's window holds the server back.
_MAX_AHEAD = 64


class InferStream:
    """A call for one request; `run` owns it, `read` takes the next response.

    Args:
        call: of `ModelStreamInfer`, opened and not used yet.
    """

    def __init__(self, call: Any) -> None:
        self._call = call
        self._ahead: deque[Any] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._failure: Exception | None = None
        self._reader_left = False
        self.ended = False
        """Whether the call is over."""

    async def run(self, request: bytes) -> None:
        """Send the request and read the answer to its end, even after the reader has left."""
        try:
            await self._call.write(request)
            await self._call.done_writing()
            while (answer := await self._call.read()) is not grpc.aio.EOF:
                if self._reader_left:
                    continue
                self._ahead.append(answer)
                _wake(self._reader)
                if len(self._ahead) >= _MAX_AHEAD:
                    self._room = asyncio.get_running_loop().create_future()
                    await self._room
        except grpc.aio.AioRpcError as error:
            self._failure = error
        except asyncio.CancelledError:
            self._failure = BackendUnavailableError("the channel was closed", broken=True)
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # This task was not cancelled: a call that is cut off, or whose channel closes, raises CancelledError too.
        finally:
            self.cut_off()
            self.ended = True
            _wake(self._reader)

    async def read(self) -> Any | None:
        """The next response; None after the last one.

        Raises:
            grpc.aio.AioRpcError: the call ended with a status that is not OK.
            BackendUnavailableError: the deadline passed, or the channel was closed.
        """
        while not self._ahead:
            if self._failure is not None:
                raise self._failure
            if self.ended:
                return None
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        answer = self._ahead.popleft()
        _wake(self._room)
        return answer

    def expire(self) -> None:
        """End reading, since the request's deadline passed; the call goes on until `leave`."""
        if self._failure is None:
            self._failure = BackendUnavailableError("no answer before the deadline", broken=False)
        _wake(self._reader)

    def leave(self) -> None:
        """Drop what is unread and what still comes."""
        self._reader_left = True
        self._ahead.clear()
        _wake(self._room)

    def cut_off(self) -> None:
        """Cancel the call; does nothing to one that has ended."""
        self._call.cancel()


def _wake(waiting: asyncio.Future[None] | None) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)
