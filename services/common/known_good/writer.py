"""Keeps the last known good file of a process near the config in force, and never holds up the event loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NoReturn

from prometheus_client import CollectorRegistry, Counter, Gauge

from services.common.known_good.generations import Generations
from services.common.known_good.sealed_file import Header

_log = logging.getLogger(__name__)

EVERY_SECONDS = 5.0
"""The file is written at most once in this time."""
REFRESH_SECONDS = 60.0
"""How often an unchanged config is written again, because it is known to be still current."""
_NEWS_MS = 1000


@dataclass(frozen=True, slots=True)
class Content:
    """Content to write. It is taken on the event loop and encoded in the writer's thread."""

    header: Header
    encode: Callable[[], Sequence[bytes]]
    before_save: Callable[[], None] = lambda: None
    """Runs before the save, for bytes that have to be durable before the file."""


async def _at_once() -> None:
    """Return at once: a change is written when it comes."""


class KnownGoodWriter:
    """Writes the file. Own `run` as a task, and end with `finish`.

    A change is written after `settle` has returned. A failed save is logged and tried again; the generations from
    before it stay.
    """

    def __init__(
        self,
        files: Generations,
        take: Callable[[], Content | None],
        registry: CollectorRegistry,
        *,
        settle: Callable[[], Awaitable[None]] = _at_once,
        every_seconds: float = EVERY_SECONDS,
    ) -> None:
        self._files = files
        self._take = take
        self._settle = settle
        self._every_seconds = every_seconds
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="last-known-good")
        self._changed = asyncio.Event()
        self._saving = asyncio.Lock()
        self._finished = False
        self._written_unix_ms = 0
        self._failures = Counter(
            "tenantry_last_known_good_failures_total",
            "Times the last known good config could not be written.",
            registry=registry,
        )
        age = Gauge(
            "tenantry_last_known_good_age_seconds",
            "Time since the config in the last known good file was current; since 1970 before the first.",
            registry=registry,
        )
        age.set_function(lambda: time.time() - self._written_unix_ms / 1000)

    def changed(self) -> None:
        """Say that there is something new to write."""
        self._changed.set()

    async def run(self) -> NoReturn:
        """Write until cancelled."""
        while True:
            try:
                async with asyncio.timeout(REFRESH_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                pass
            else:
                await self._settle()
            await self._save()
            await asyncio.sleep(self._every_seconds)

    async def finish(self, within_seconds: float) -> None:
        """Write the last changes, on a clean stop.

        A save that takes longer goes on until the process ends, but is no longer waited for. The file from before stays
        until the save is done.
        """
        try:
            async with asyncio.timeout(within_seconds):
                await self._save()
        except TimeoutError:
            _log.error(
                "last known good: not written within %.1f s; the process may end with it", within_seconds
            )
        # `run` goes on until its owner ends it, but can no longer write.
        self._finished = True
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _save(self) -> None:
        # `finish` may come as `run` wakes up; only one of them may write a change.
        async with self._saving:
            await self._save_news()

    async def _save_news(self) -> None:
        content = None if self._finished else self._take()
        if content is None:
            return
        if not self._changed.is_set() and content.header.written_unix_ms - self._written_unix_ms < _NEWS_MS:
            # Nothing confirmed the config since, and the file must not look newer than it is.
            return
        self._changed.clear()
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._write, content)
        except (OSError, ValueError) as error:
            self._changed.set()
            self._failures.inc()
            _log.error("LAST KNOWN GOOD NOT WRITTEN: %s", _cause(error))
        else:
            self._written_unix_ms = content.header.written_unix_ms

    def _write(self, content: Content) -> None:
        content.before_save()
        self._files.save(content.header, content.encode())


def _cause(error: OSError | ValueError) -> str:
    return f"errno {error.errno}" if isinstance(error, OSError) else str(error)
