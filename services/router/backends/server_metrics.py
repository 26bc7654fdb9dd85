"""Reads the Prometheus metrics of model servers over HTTP, within bounds of time and size."""

from __future__ import annotations

import asyncio
import http.client
import time
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

_MOST_BYTES = 2 << 20
_CHUNK_BYTES = 64 << 10
_THREADS = 4
_OK = 200


class ServerMetrics:
    """A `MetricsReader`: a few threads, since a server that hangs holds one for its timeout."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="server-metrics")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def read(self, url: str, timeout_seconds: float) -> str:
        """The metrics.

        Raises:
            OSError: it cannot be reached, in time or at all, or its answer is none or too large.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, _read, url, timeout_seconds)


def _read(url: str, timeout_seconds: float) -> str:
    parts, deadline = urlsplit(url), time.monotonic() + timeout_seconds
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_seconds)
    try:
        connection.request("GET", parts.path or "/", headers={"Accept": "text/plain"})
        answer = connection.getresponse()
        if answer.status != _OK:
            raise OSError(f"status {answer.status}")
        body = b""
        while chunk := answer.read(_CHUNK_BYTES):
            body += chunk
            if len(body) > _MOST_BYTES:
                raise OSError("too large")
            if time.monotonic() > deadline:
                raise TimeoutError
        return body.decode(errors="replace")
    except http.client.HTTPException as error:
        raise OSError(type(error).__name__) from None
    finally:
        connection.close()
