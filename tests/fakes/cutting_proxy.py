"""A TCP proxy that cuts every connection after a given number of bytes from the server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Self


class CuttingProxy:
    """Forwards to a loopback port; `budget()` gives each connection's bytes, None for no cut."""

    def __init__(self, target: str, budget: Callable[[], int | None]) -> None:
        host, _, port = target.rpartition(":")
        self._upstream = (host, int(port))
        self._budget = budget
        self.cuts = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._tasks: set[asyncio.Task[None]] = set()
        self.target = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        up_reader, up_writer = await asyncio.open_connection(*self._upstream)
        upload = asyncio.create_task(self._upload(reader, up_writer))
        left = self._budget()
        try:
            while data := await up_reader.read(4096):
                if left is not None and len(data) >= left:
                    writer.write(data[:left])
                    await writer.drain()
                    self.cuts += 1
                    break
                left = left - len(data) if left is not None else None
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            upload.cancel()
            for side in (writer, up_writer):
                side.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await upload

    async def _upload(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(4096):
                writer.write(data)
                await writer.drain()
