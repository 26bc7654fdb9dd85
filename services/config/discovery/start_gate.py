"""Heavy work over a large state waits for the routers that start with it: they are who it is there for."""

from __future__ import annotations

import asyncio
import contextlib

from services.config.discovery.registry import RouterRegistry

# A state of 60,000 records takes a router some seconds to have in force, and seconds to digest or to write here.
_FIRST_LOOK_SECONDS_PER_RECORD = 1e-4
"""Routers that start together with this service connect some time after it has its state."""
_WAIT_SECONDS_PER_RECORD = 5e-4


class StartGate:
    """Tells when no router is on its way to its first state."""

    def __init__(self, routers: RouterRegistry) -> None:
        self._routers = routers

    async def wait_until_started(self, records: int) -> None:
        """Wait until a state of so many records may be worked over: a small one waits for nobody.

        A router that does not answer is waited for in proportion to the state, and no longer.
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
