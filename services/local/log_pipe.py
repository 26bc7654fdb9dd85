"""The pipe a process writes its log into.

Not `subprocess.PIPE`: waiting for such a process waits, in some Pythons, for every holder of the pipe as well
(python/cpython#119710), and a process's children hold it too.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

_LINE_BYTES = 64 << 10


class LogPipe:
    """Both ends of a pipe; use as an async context manager. Close `write_fd` once the process has it."""

    def __init__(self) -> None:
        self._read_fd, self.write_fd = os.pipe()
        self._reader = asyncio.StreamReader(_LINE_BYTES)
        self._transport: asyncio.ReadTransport | None = None

    async def __aenter__(self) -> Self:
        """Start reading."""
        try:
            self._transport, _ = await asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(self._reader), os.fdopen(self._read_fd, "rb", 0)
            )
        except BaseException:
            self.close_write_end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop reading, even if a process still writes."""
        self.close_write_end()
        assert self._transport is not None
        self._transport.close()

    def close_write_end(self) -> None:
        """Leave writing to the process; the lines end when no process has this end any more."""
        if self.write_fd >= 0:
            os.close(self.write_fd)
            self.write_fd = -1

    async def lines(self) -> AsyncIterator[bytes]:
        """Every line, with its end; one longer than 64 KiB is left out."""
        while True:
            try:
                line = await self._reader.readline()
            except ValueError:
                continue
            if not line:
                return
            yield line
