"""One running answer of the scripted server."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Awaitable, Callable
from itertools import islice

import grpc

from tests.fakes.scripted_triton.answers import answer
from tests.fakes.scripted_triton.batch import Batch
from tests.fakes.scripted_triton.frames import Frames
from tests.fakes.scripted_triton.request import Request
from tests.fakes.scripted_triton.script import Fault, Script

_TOKEN = struct.Struct("<i")


class StreamFailure(Exception):  # noqa: N818 -- how a stream ends, not what is wrong with the code
    """The whole stream ends with this status."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class EngineError(Exception):
    """The engine fails at a request that it had accepted."""


class Generation:
    """Sends what the script says; `stop` ends it as another request's `stop` does."""

    def __init__(
        self, script: Script, request: Request, fault: Fault | None, frames: Frames, batch: Batch | None
    ) -> None:
        self.stop = asyncio.Event()
        self._script = script
        self._request = request
        self._fault = fault
        self._frames = frames
        self._batch = batch

    async def run(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        """Send every response.

        Raises:
            StreamFailure: the script drops the connection.
            EngineError: the script has the engine fail.
        """
        script, request = self._script, self._request
        # Without an end token the engine runs to the limit, whatever the model would say.
        unlimited = script.tokens is None or request.end_token is None
        count = request.max_tokens if unlimited else min(script.tokens or 0, request.max_tokens)
        tokens = answer(
            request.lora_id,
            request.input_ids,
            script.first_token,
            script.vocabulary_tokens,
            request.end_token,
        )
        if not request.streaming:
            await self._whole(list(islice(tokens, count)), send)
            return
        by_length = count == request.max_tokens and not script.empty_final
        plain = count - 1 if by_length else count
        head, tail = self._frames.token.halves(request.request_id)
        for place, token in enumerate(islice(tokens, plain)):
            await self._before(place)
            if self.stop.is_set():
                break
            await send(head + _TOKEN.pack(token) + tail)
        if not self.stop.is_set():
            await self._before(plain)
        if self._fault is Fault.NEVER_FINAL:
            return
        if script.empty_final:
            await send(self._frames.empty_final(request.request_id))
        elif by_length and not self.stop.is_set():
            head, tail = self._frames.last_token.halves(request.request_id)
            await send(head + _TOKEN.pack(next(tokens)) + tail)
        else:
            await send(self._frames.end(request.request_id))

    async def _whole(self, tokens: list[int], send: Callable[[bytes], Awaitable[None]]) -> None:
        for place in range(max(1, len(tokens))):
            await self._before(place)
            if self.stop.is_set():
                tokens = tokens[:place]
                break
        if self._fault is not Fault.NEVER_FINAL:
            await send(self._frames.whole(self._request.request_id, [*self._request.echo, *tokens]))

    async def _before(self, place: int) -> None:
        script = self._script
        if self._fault is not None and place == script.fault_after_tokens:
            await self._fail(self._fault)
        if self._batch is not None:
            if place == 0:
                await self._batch.prompt(len(self._request.input_ids) // _TOKEN.size)
            else:
                await self._batch.token()
        elif place == 0 and script.first_token_delay_seconds:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stop.wait(), script.first_token_delay_seconds)
        elif place and script.token_delay_seconds:
            await asyncio.sleep(script.token_delay_seconds)

    async def _fail(self, fault: Fault) -> None:
        if fault is Fault.DROP:
            raise StreamFailure(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        if fault is Fault.ERROR:
            raise EngineError("the scripted engine fails")
        if fault is Fault.HANG:
            await asyncio.Event().wait()
