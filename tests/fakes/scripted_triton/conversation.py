"""Holds a scenario's conversation with a server, real or scripted, and keeps the frames as they came."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from tests.fakes.scripted_triton.scenarios import Exchange, Scenario, adapter, infer_request, prompt, scalar

_SERVICE = "/inference.GRPCInferenceService/"
_CALL_SECONDS = 30.0
_ROOM_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Transcript:
    """What came back: raw frames in their order, and the call's status."""

    frames: tuple[bytes, ...]
    code: str
    details: str


class Conversation:
    """A client of one server."""

    def __init__(self, target: str) -> None:
        self._channel = grpc.aio.insecure_channel(target, [("grpc.use_local_subchannel_pool", 1)])
        serialise = pb.ModelInferRequest.SerializeToString
        self._stream: Any = self._channel.stream_stream(f"{_SERVICE}ModelStreamInfer", serialise, None)
        self._unary: Any = self._channel.unary_unary(f"{_SERVICE}ModelInfer", serialise, None)
        self.stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._spare_ids = itertools.count(1 << 20)

    async def hold(self, scenario: Scenario) -> Transcript:
        """Play a scenario; afterwards nothing of it runs on the server any more."""
        for tensors in scenario.before:
            await self.say(Exchange(tensors))
        held = {f"held-{number}": tensors for number, tensors in enumerate(scenario.held)}
        calls = [await self.begin(Exchange(tensors, request_id=name)) for name, tensors in held.items()]
        try:
            return await self.say(scenario.exchange)
        finally:
            for name, call in zip(held, calls, strict=True):
                await self.stop(name)
                await read_to_the_end(call)
            if scenario.exchange.cancel_after is not None:
                await self._wait_for_room()

    async def say(self, exchange: Exchange) -> Transcript:
        """Send one request and read its answer to the end."""
        request, metadata = infer_request(exchange), exchange.metadata
        frames: list[bytes] = []
        try:
            if exchange.unary:
                frames.append(await self._unary(request, timeout=_CALL_SECONDS, metadata=metadata))
                return Transcript(tuple(frames), "OK", "")
            call = self._stream(iter([request]), timeout=_CALL_SECONDS, metadata=metadata)
            async for frame in call:
                frames.append(frame)
                if len(frames) == exchange.cancel_after:
                    call.cancel()
                    return Transcript(tuple(frames), "CANCELLED", "")
        except grpc.aio.AioRpcError as error:
            return Transcript(tuple(frames), error.code().name, error.details() or "")
        return Transcript(tuple(frames), "OK", "")

    async def begin(self, exchange: Exchange) -> Any:
        """Send a request; returns its call once the first token has come."""
        call = self._stream(iter([infer_request(exchange)]), timeout=_CALL_SECONDS)
        first = pb.ModelStreamInferResponse.FromString(await call.read())
        assert not first.error_message, first.error_message
        return call

    async def stop(self, request_id: str) -> Transcript:
        """End a running request by another one, as a router does.

        Not by cancelling its call: where that meets the last response, Triton 2.51 can crash.
        """
        return await self.say(Exchange(prompt(1) | {"stop": scalar(True, bool)}, request_id=request_id))

    async def _wait_for_room(self) -> None:
        async with asyncio.timeout(_ROOM_SECONDS):
            while True:
                answer = await self.say(Exchange(prompt(1) | adapter(next(self._spare_ids))))
                if not pb.ModelStreamInferResponse.FromString(answer.frames[0]).error_message:
                    return

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._channel.close()


async def read_to_the_end(call: Any) -> list[bytes]:
    """The frames that are left of a call."""
    frames = []
    while (frame := await call.read()) is not grpc.aio.EOF:
        frames.append(frame)
    return frames
