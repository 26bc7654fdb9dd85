"""One of our own services as a real process, ready when its health says so."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.common.rpc.channel import open_channel
from tests.fakes.patience import PATIENCE_SECONDS

REPOSITORY = Path(__file__).parents[2]


class ServiceProcess:
    """`python -m <module>` with settings from the environment."""

    def __init__(self, module: str, settings: dict[str, str], health_target: str, log: Path) -> None:
        self._module = module
        self._settings = settings
        self._health_target = health_target
        self._log = log
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, *, wait_ready: bool = True) -> None:
        with self._log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", self._module,
                env={**os.environ, **self._settings}, cwd=REPOSITORY, stdout=log, stderr=log,
            )  # fmt: skip
        if wait_ready:
            await self.ready()

    async def ready(self) -> None:
        """Wait until the service says SERVING."""
        channel = open_channel(self._health_target)
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            async with asyncio.timeout(90):
                while True:
                    assert self.process is not None
                    if self.process.returncode is not None:
                        raise AssertionError(f"{self._module} ended: {self._log.read_text()[-2000:]}")
                    try:
                        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=1)
                        if answer.status == health_pb2.HealthCheckResponse.SERVING:
                            return
                    except grpc.RpcError:
                        pass
                    await asyncio.sleep(0.05)
        finally:
            await channel.close()

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait; returns the exit status."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.process.wait()

    async def kill(self) -> None:
        """kill -9."""
        await self.end(signal.SIGKILL)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()
