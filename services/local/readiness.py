"""Probes whether a process answers: gRPC health, or HTTP over a port or a Unix socket. Never raises or hangs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.common.rpc.channel import open_channel
from services.local.ports import LOOPBACK

Probe = Callable[[], Awaitable[bool]]

_PROBE_SECONDS = 1.0


def grpc_health(target: str) -> Probe:
    """SERVING under the empty service name."""

    async def probe() -> bool:
        channel = open_channel(target)
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=_PROBE_SECONDS
            )
        except grpc.RpcError:
            return False
        finally:
            await channel.close()
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    return probe


def http_ok(path: str, *, port: int | None = None, socket: Path | None = None) -> Probe:
    """A GET answered with status 200, on a loopback port or a Unix socket."""

    async def probe() -> bool:
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                if socket is not None:
                    reader, writer = await asyncio.open_unix_connection(str(socket))
                else:
                    reader, writer = await asyncio.open_connection(LOOPBACK, port)
                try:
                    writer.write(
                        f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
                    )
                    await writer.drain()
                    status = await reader.readline()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return False
        return b" 200 " in status

    return probe
