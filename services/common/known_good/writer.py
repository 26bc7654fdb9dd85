"""Keeps a process's last known good file near what is in force, without ever holding up the event loop."""

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
"""A file is written this often at most."""
REFRESH_SECONDS = 60.0
"""How often a config that did not change is written again, since it is known to be current still."""
_NEWS_MS = 1000


@dataclass(frozen=True, slots=True)
class Content:
    """What to write: taken on the event loop, made into bytes in the writer's thread."""

    header: Header
    encode: Callable[[], Sequence[bytes]]
    before_save: Callable[[], None] = lambda: None
    """Has to be durable before the file is."""


async def _at_once() -> None:
    """A change is written when it comes."""


class KnownGoodWriter:
    """Own `run` as a task, and end with `finish`.

    After a change, `settle` is waited for. A failed save is logged and tried again; the generations from before it
    stay, and nobody waits for it.
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
        """There is something new to write."""
        self._changed.set()

    async def run(self) -> NoReturn:
        """Write for as long as the process lives."""
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
        """Write what is not written yet, on a clean stop.

        What takes longer is waited for no more, and goes on until the process ends; the file from before stays until
        it is done.
        """
        try:
            async with asyncio.timeout(within_seconds):
                await self._save()
        except TimeoutError:
            _log.error(
                "last known good: not written within %.1f s; the process may end with it", within_seconds
            )
        # `run` goes on until its owner ends it, and has no thread any more.
        self._finished = True
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _save(self) -> None:
        # A clean stop may come as `run` wakes: what one of them writes, the other does not write again.
        async with self._saving:
            await self._save_news()

    async def _save_news(self) -> None:
        content = None if self._finished else self._take()
        if content is None:
            return
        if not self._changed.is_set() and content.header.written_unix_ms - self._written_unix_ms < _NEWS_MS:
            # Nothing was heard since: it would only look newer than it is.
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
