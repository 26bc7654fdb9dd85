"""The floor the router is measured against: grpc.aio in, `ModelStreamInfer` out, bytes passed as they are.

It knows no messages, keys, tenants, pools or audit: what it costs is what grpc.aio costs on this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import AsyncIterator
from typing import Any

import grpc

from services.common.rpc.channel import open_channel

SERVICE = "bench.Relay"
_CALL_SECONDS = 60.0


class BareRelay:
    """One upstream stream a call, in both forms of call."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._upstream: Any = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")

    def methods(self) -> grpc.GenericRpcHandler:
        """The service, without serialisers."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Generate": grpc.unary_unary_rpc_method_handler(self._generate),
                "StreamGenerate": grpc.unary_stream_rpc_method_handler(self._stream_generate),
            },
        )

    async def _generate(self, raw: bytes, _: Any) -> bytes:
        last = b""
        async for frame in self._frames(raw):
            last = frame
        return last

    async def _stream_generate(self, raw: bytes, _: Any) -> AsyncIterator[bytes]:
        async for frame in self._frames(raw):
            yield frame

    async def _frames(self, raw: bytes) -> AsyncIterator[bytes]:
        call = self._upstream(timeout=_CALL_SECONDS)
        await call.write(raw)
        await call.done_writing()
        while (frame := await call.read()) is not grpc.aio.EOF:
            yield frame


async def serve(listen: str, upstream: str) -> None:
    """Relay until SIGTERM."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with open_channel(upstream) as channel:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((BareRelay(channel).methods(),))
        server.add_insecure_port(listen)
        await server.start()
        await stopped.wait()
        await server.stop(0)


def main() -> None:
    """Run as a process."""
    parser = argparse.ArgumentParser(description="a relay that does nothing else")
    parser.add_argument("--listen", required=True)
    parser.add_argument("--upstream", required=True)
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.listen, arguments.upstream))


if __name__ == "__main__":
    main()
