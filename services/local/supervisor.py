"""All processes of the mesh: run side by side, waited for together, stopped callers first."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from services.local.process import ProcessSpec, Show, SupervisedProcess


class Supervisor:
    """Owns the processes; leaving the context stops every one.

    Args:
        log_dir: gets one file a process.
        show: sees every line.
        stop_order: names in the order they stop, several at once; processes not named stop at the same time.
        stop_seconds: for all of them together; those still running then are killed.
        hurry: once it is set, stopping means killing.
    """

    def __init__(
        self,
        log_dir: Path,
        show: Show,
        stop_order: Sequence[Sequence[str]],
        *,
        stop_seconds: float = 3.8,
        hurry: asyncio.Event | None = None,
    ) -> None:
        self._log_dir = log_dir
        self._show = show
        self._stop_order = stop_order
        self._stop_seconds = stop_seconds
        self._hurry = hurry or asyncio.Event()
        self._processes: dict[str, SupervisedProcess] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Make the log directory."""
        self._log_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop everything."""
        try:
            await self.stop()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def __getitem__(self, name: str) -> SupervisedProcess:
        """A process by name; KeyError for none."""
        return self._processes[name]

    def start(self, spec: ProcessSpec) -> SupervisedProcess:
        """Start a process and keep it running."""
        process = SupervisedProcess(spec, self._log_dir / f"{spec.name}.log", self._show)
        self._processes[spec.name] = process
        self._tasks.append(asyncio.create_task(process.run(), name=f"supervise {spec.name}"))
        return process

    async def stop(self) -> None:
        """Stop every process, clients before their servers; those that are late are killed, all of them in a hurry."""
        stopping = asyncio.create_task(self._stop_all())
        hurried = asyncio.create_task(self._hurry.wait())
        try:
            await asyncio.wait(
                {stopping, hurried}, timeout=self._stop_seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            hurried.cancel()
            if not stopping.done():
                for process in self._processes.values():
                    process.kill_now()
                stopping.cancel()
            await asyncio.gather(stopping, hurried, return_exceptions=True)

    async def _stop_all(self) -> None:
        ordered = {name for names in self._stop_order for name in names}
        beside = [process.stop() for name, process in self._processes.items() if name not in ordered]
        await asyncio.gather(self._stop_in_order(), *beside)

    async def _stop_in_order(self) -> None:
        for names in self._stop_order:
            await asyncio.gather(*(self._processes[name].stop() for name in names if name in self._processes))
