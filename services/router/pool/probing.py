"""Keeps asking every endpoint whether it serves, and tells its pool."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NoReturn, Protocol

from services.router.pool.fifo import FifoPool

_INTERVAL_SECONDS = 0.5
_TIMEOUT_SECONDS = 2.0
# A busy server may be late; one that is gone refuses at once.
_MAX_LATE = 3


class Probe(Protocol):
    """Asks one endpoint."""

    async def ready(self, target: str, server_model: str, timeout_seconds: float) -> bool:
        """Whether it serves the model.

        Raises:
            TimeoutError: no answer in time.
        """
        ...


async def probe_endpoint(
    probe: Probe,
    pool: FifoPool,
    target: str,
    server_model: str,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> NoReturn:
    """Probe until cancelled."""
    late = 0
    while True:
        try:
            ready = await probe.ready(target, server_model, _TIMEOUT_SECONDS)
        except TimeoutError:
            late += 1
            if late >= _MAX_LATE:
                pool.probed(target, ready=False)
        else:
            late = 0
            pool.probed(target, ready=ready)
        await sleep(_INTERVAL_SECONDS)
