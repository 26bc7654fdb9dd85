"""One `ModelStreamInfer` call with a task of its own, so that whoever reads it may leave without cancelling it.

Cancelling the call while the server answers it can crash tritonserver: before release 25.05 the end of an answer
races with the cancellation (triton-inference-server/server issue 8034). A caller that hangs up must not end
everybody's answers, so a reader leaves, the request is stopped by message, and the call is read to its end. Only
a server that does not end it in time is cut off.

A reader that is cancelled inside of grpc.aio's `read` or `write` cancels the call, hence the task.
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
    """A call that takes one request; `run` owns it, `read` takes what has come.

    Args:
        call: of `ModelStreamInfer`, opened and not used yet.
    """

    def __init__(self, call: Any) -> None:
        self._call = call
        self._ahead: deque[Any] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._failure: Exception | None = None
        self._left = False
        self.ended = False
        """Whether the call is over."""

    async def run(self, request: bytes) -> None:
        """Send the request and read the answer to its end, whether or not somebody still listens."""
        try:
            await self._call.write(request)
            await self._call.done_writing()
            while (answer := await self._call.read()) is not grpc.aio.EOF:
                if self._left:
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
            # Nobody cancelled us: a call that is cut off, or whose channel closes, makes its reader look cancelled.
        finally:
            self.cut_off()
            self.ended = True
            _wake(self._reader)

    async def read(self) -> Any | None:
        """The next response; None after the last one.

        Raises:
            grpc.aio.AioRpcError: the call ended with a status that is not OK.
            BackendUnavailableError: the time was over, or the channel was closed.
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
        """The time of the request is over: the reader hears of it, and the call goes on until it is left."""
        if self._failure is None:
            self._failure = BackendUnavailableError("no answer before the deadline", broken=False)
        _wake(self._reader)

    def leave(self) -> None:
        """Nobody reads any more: what comes is dropped."""
        self._left = True
        self._ahead.clear()
        _wake(self._room)

    def cut_off(self) -> None:
        """Cancel the call. One that has ended takes no harm."""
        self._call.cancel()


def _wake(waiting: asyncio.Future[None] | None) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)
