"""Delays heavy work over a large state until the routers that start with it have answered."""

from __future__ import annotations

import asyncio
import contextlib

from services.config.discovery.registry import RouterRegistry

# A router needs seconds to put 60,000 records in force; digesting or writing them here takes seconds too.
_FIRST_LOOK_SECONDS_PER_RECORD = 1e-4
"""Routers that start together with this service connect a while after it has its state."""
_WAIT_SECONDS_PER_RECORD = 5e-4


class StartGate:
    """Waits until no router is about to apply its first state."""

    def __init__(self, routers: RouterRegistry) -> None:
        self._routers = routers

    async def wait_until_started(self, records: int) -> None:
        """Wait until every starting router has answered, at most in proportion to the state's number of records.

        Work over a small state waits hardly at all, and a router that hangs delays it by a bounded time.
        """
        await asyncio.sleep(records * _FIRST_LOOK_SECONDS_PER_RECORD)
        changed = asyncio.Event()
        end_listening = self._routers.listen(changed.set)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(records * _WAIT_SECONDS_PER_RECORD):
                    while self._routers.starting():  # proven: waits-for-starting-routers
                        changed.clear()
                        await changed.wait()
        finally:
            end_listening()
