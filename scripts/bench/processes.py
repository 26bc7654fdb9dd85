"""Processes under measurement: started, ready, and the processor time they have used."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc

REPOSITORY = Path(__file__).parents[2]
_READY_SECONDS = 30.0
_STOP_SECONDS = 10.0
_WHOLE_PROCESS = 2  # CPUCLOCK_SCHED of Linux: threads that have ended count too


@asynccontextmanager
async def running(module: str, target: str, log: Path, *arguments: str) -> AsyncIterator[int]:
    """Run `python -m module` until the block ends; gives its pid once `target` takes connections.

    Raises:
        RuntimeError: it is not ready in time.
    """
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, *arguments, cwd=REPOSITORY, stdout=output, stderr=output
        )
    try:
        try:
            async with asyncio.timeout(_READY_SECONDS), grpc.aio.insecure_channel(target) as channel:
                await channel.channel_ready()
        except TimeoutError:
            raise RuntimeError(f"{module} is not ready: {_end_of(log)}") from None
        yield process.pid
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads of a process so far, to the nanosecond.

    The clock is the one clock_getcpuclockid(3) gives; /proc/<pid>/stat counts in hundredths of a second.
    """
    return time.clock_gettime(~pid << 3 | _WHOLE_PROCESS)


def _end_of(log: Path) -> str:
    return log.read_text("utf-8", "replace")[-2000:]
