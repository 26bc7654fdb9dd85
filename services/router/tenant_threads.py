"""Threads that tenants share: one piece of work at a time for each tenant, in a turn of its own.

A tenant with much work waits for itself. Another one waits at most for one piece of each tenant that is busy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar
from weakref import WeakValueDictionary

T = TypeVar("T")


class TenantThreads:
    """A few threads, and whose turn it is.

    Args:
        threads: pieces of work at once, over all tenants. Each thread starts with its first use.
        name: of the threads.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def close(self) -> None:
        """Let each thread finish its work and end."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def run(self, tenant_uid: str, work: Callable[[], T]) -> T:
        """Do a tenant's work once its turn has come; cancel-safe."""
        turn = self._turns.setdefault(tenant_uid, asyncio.Semaphore())
        await turn.acquire()  # proven: one-turn-a-tenant
        running = self._threads.submit(work)
        loop = asyncio.get_running_loop()

        def ended(_: Future[T]) -> None:
            # The loop is closed if the process ends meanwhile.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(turn.release)

        # A caller that leaves does not end the work: the turn lasts until the thread is done.
        running.add_done_callback(ended)
        return await asyncio.wrap_future(running)  # proven: turn-outlasts-its-caller
