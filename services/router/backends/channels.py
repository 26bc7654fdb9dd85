"""Channels to model servers, one an endpoint, shared by streams and probes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc

from services.common.rpc.channel import open_channel
from services.common.rpc.tls import TLSMaterial
from services.router.backends.kserve_stubs import STREAM_METHOD, InferenceStub, StreamResponse

# Token responses are small; an error text may carry a stack trace.
_MAX_RESPONSE_BYTES = 16 << 20
# The longest request that a tenant may be granted by default.
_GRACE_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class _Opened:
    channel: grpc.aio.Channel
    stub: Any
    infer_stream: Any


class EndpointChannels:
    """Opens a channel when a target is first used, and closes it when the target is gone."""

    def __init__(self, tls: TLSMaterial | None) -> None:
        self._tls = tls
        self._closing: set[asyncio.Task[None]] = set()
        self._open: dict[str, _Opened] = {}

    def stub(self, target: str) -> Any:
        """The KServe stub of a target."""
        return self._opened(target).stub

    def infer_stream(self, target: str) -> Any:
        """`ModelStreamInfer` of a target, for requests that are serialised already."""
        return self._opened(target).infer_stream

    def _opened(self, target: str) -> _Opened:
        known = self._open.get(target)
        if known is None:
            channel = open_channel(target, self._tls, max_message_bytes=_MAX_RESPONSE_BYTES)
            stream: Any = channel.stream_stream(STREAM_METHOD, None, StreamResponse.FromString)
            known = self._open[target] = _Opened(channel, InferenceStub(channel), stream)
        return known

    def keep_only(self, targets: frozenset[str]) -> None:
        """Close the channels of all other targets, once the streams that run on them have ended."""
        for target in self._open.keys() - targets:
            channel = self._open.pop(target).channel
            closing = asyncio.create_task(channel.close(_GRACE_SECONDS), name="close channel")
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for closing in self._closing:
            closing.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        for opened in self._open.values():
            await opened.channel.close()
