"""A real etcd on free loopback ports, which can be killed and started again over its data."""

from __future__ import annotations

import asyncio
import signal
import sys
import weakref
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import grpc

from services.common.rpc.channel import open_channel
from services.config.etcd.client import EtcdClient
from services.config.etcd.store import StoreUnavailableError
from services.local.ports import ANY, reserved_ports

ETCD = Path(sys.executable).with_name("etcd")


class EtcdProcess:
    """Its two ports are its own as long as this object is, also between two lives."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        held = ExitStack()
        self._client_port, self._peer_port = held.enter_context(reserved_ports([ANY, ANY]))
        weakref.finalize(self, held.close)
        self._process: asyncio.subprocess.Process | None = None

    @property
    def data_dir(self) -> Path:
        return self._folder / "data"

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self._client_port}"

    def channel(self) -> grpc.aio.Channel:
        return open_channel(self.target)

    async def start(self) -> None:
        client, peer = f"http://127.0.0.1:{self._client_port}", f"http://127.0.0.1:{self._peer_port}"
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "etcd.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                str(ETCD), "--name", "one", "--data-dir", str(self.data_dir),
                "--listen-client-urls", client, "--advertise-client-urls", client,
                "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                "--initial-cluster", f"one={peer}", "--log-level", "error",
                stdout=log, stderr=log,
            )  # fmt: skip
        channel = self.channel()
        try:
            async with asyncio.timeout(60):
                while True:
                    try:
                        await EtcdClient(channel).get("ready?")
                        break
                    except StoreUnavailableError:
                        await asyncio.sleep(0.02)
        finally:
            await channel.close()

    async def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        if self._process.returncode is None:
            self.send(signal.SIGKILL)
        await self._process.wait()

    def send(self, number: signal.Signals) -> None:
        """Send a signal, for example SIGSTOP: alive, connected and silent."""
        assert self._process is not None
        self._process.send_signal(number)

    async def compact(self, revision: int) -> None:
        """Forget every revision before this one."""
        tool = await asyncio.create_subprocess_exec(
            str(ETCD.with_name("etcdctl")), "--endpoints", self.target, "compaction", str(revision),
            stdout=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        assert await tool.wait() == 0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()
