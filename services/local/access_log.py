"""Keeps Envoy's access log within bounds: a full file is moved aside, and Envoy opens a new one."""

from __future__ import annotations

import asyncio
from pathlib import Path

from services.local.log_file import MAX_BYTES, older

_REOPEN_SECONDS = 5.0


async def rotate_when_full(
    path: Path, admin_socket: Path, *, max_bytes: int = MAX_BYTES, look_every_seconds: float = 2.0
) -> None:
    """Rotate for as long as it runs; cancelled at the end.

    Envoy goes on writing to the file that was moved until it has reopened its logs; where it does not answer, the
    next look tries again. One older file is kept.
    """
    moved = False
    while True:
        await asyncio.sleep(look_every_seconds)
        moved |= await asyncio.to_thread(_moved_aside, path, max_bytes)
        if moved:
            moved = not await _reopened(admin_socket)


def _moved_aside(path: Path, max_bytes: int) -> bool:
    """Whether the log was full and could be moved; one that cannot be moved goes on growing."""
    try:
        if path.stat().st_size < max_bytes:
            return False
        path.replace(older(path))
    except OSError:
        return False
    return True


async def _reopened(admin_socket: Path) -> bool:
    """Ask Envoy to open its log files anew; whether it did."""
    try:
        async with asyncio.timeout(_REOPEN_SECONDS):
            reader, writer = await asyncio.open_unix_connection(str(admin_socket))
            try:
                writer.write(
                    b"POST /reopen_logs HTTP/1.1\r\nHost: admin\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                )
                await writer.drain()
                status = await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError):
        # ValueError: the answer's first line is longer than a reader takes.
        return False  # proven: a-long-answer-is-no-end
    return b" 200 " in status
