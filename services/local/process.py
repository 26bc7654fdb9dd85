"""Keeps one process running: starts it, watches it, restarts it with backoff, stops its whole group."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from services.common.backoff import Backoff
from services.common.command_errors import CommandError
from services.local.log_file import LogFile
from services.local.log_pipe import LogPipe
from services.local.readiness import Probe

Show = Callable[[str, str], None]
"""Called with (process name, line)."""


def to_logs_only(_name: str, _line: str) -> None:
    """Show nothing: the log files have every line."""


_PR_SET_PDEATHSIG = 1
# No file, socket or shared memory of the mesh is for other users of the host.
_OWNER_ONLY = 0o077
_PROBE_EVERY_SECONDS = 0.05
_KEPT_LINES = 20
_EARLY_DEATHS = 3
_STEADY_SECONDS = 10.0
_REAPED_SECONDS = 0.5
_LIBC = ctypes.CDLL(None)


class ProcessFailedError(CommandError):
    """A process did not get ready. Holds its last log lines."""

    def __init__(self, name: str, why: str, last_lines: Sequence[str], log_path: Path) -> None:
        self.name = name
        self.last_lines = tuple(last_lines)
        super().__init__(
            f"{name} {why}.", f"Its whole log is {log_path}.", [("", line) for line in self.last_lines]
        )


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """A program to run and a probe for its readiness. Secrets never go into `argv` or `env`."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    ready: Probe
    before_start: Callable[[], None] = lambda: None
    """Removes the leftovers of a killed run; called before each start and after the last end."""
    stop_seconds: float = 3.0
    """From SIGTERM to SIGKILL."""


def _die_with(parent_pid: int) -> None:
    # Runs between fork and exec: the kernel ends the child when the supervisor ends in any way.
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # It ended before the call above.
        os.kill(os.getpid(), signal.SIGKILL)


class SupervisedProcess:
    """Keeps one process running until `kill` or `stop`."""

    def __init__(self, spec: ProcessSpec, log_path: Path, show: Show) -> None:
        self.spec = spec
        self._log_path = log_path
        self._show = show
        self._wanted, self._unwanted = asyncio.Event(), asyncio.Event()
        self._want(True)
        self._ready = asyncio.Event()
        self._down = asyncio.Event()
        self._down.set()
        self._process: asyncio.subprocess.Process | None = None
        self._early_deaths = 0
        self._last_lines: deque[str] = deque(maxlen=_KEPT_LINES)

    @property
    def pid(self) -> int | None:
        """The running process; None between two lives."""
        return self._process.pid if self._process and self._process.returncode is None else None

    def _want(self, wanted: bool) -> None:
        set_, cleared = (self._wanted, self._unwanted) if wanted else (self._unwanted, self._wanted)
        set_.set()
        cleared.clear()

    async def run(self) -> None:
        """Run it again and again until cancelled, which kills the process."""
        backoff = Backoff(0.2, 5.0)
        try:
            while True:
                while not self._wanted.is_set():
                    await self._wanted.wait()
                started = time.monotonic()
                end = await self._live_once()
                if time.monotonic() - started > _STEADY_SECONDS:
                    backoff.reset()
                if self._wanted.is_set():
                    self._early_deaths += 1
                    delay_seconds = backoff.next_delay_seconds()
                    self._say(f"{end}; again in {delay_seconds:.1f} s")
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._unwanted.wait(), delay_seconds)
        finally:
            await self._end()
            with contextlib.suppress(OSError):
                self.spec.before_start()

    async def _live_once(self) -> str:
        """Start it and wait for its end; returns how it ended. No failure here ends the supervision."""
        self._down.clear()
        try:
            await asyncio.to_thread(self.spec.before_start)
            async with LogPipe() as pipe:
                process = self._process = await asyncio.create_subprocess_exec(
                    *self.spec.argv,
                    env=dict(self.spec.env),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=pipe.write_fd,
                    stderr=asyncio.subprocess.STDOUT,
                    start_new_session=True,
                    umask=_OWNER_ONLY,
                    preexec_fn=partial(_die_with, os.getpid()),  # two system calls, no Python lock taken
                )
                pipe.close_write_end()
                if not self._wanted.is_set():
                    self._signal(signal.SIGKILL)
                await self._watch(process, pipe)
        except Exception as error:  # noqa: BLE001 - the next start may succeed
            await self._end()
            return f"could not be run: {error}"
        else:
            return f"ended with status {process.returncode}"
        finally:
            self._ready.clear()
            self._down.set()

    async def _watch(self, process: asyncio.subprocess.Process, pipe: LogPipe) -> None:
        async with asyncio.TaskGroup() as group:
            log = group.create_task(self._pump(pipe))
            probe = group.create_task(self._probe())
            await process.wait()
            self._ready.clear()
            probe.cancel()
            # Its children are useless without it, and one of them may hold the log open.
            self._signal(signal.SIGKILL, group_only=True)
            await asyncio.wait([log], timeout=1)
            log.cancel()

    async def _probe(self) -> None:
        while True:
            if await self.spec.ready():
                break
            await asyncio.sleep(_PROBE_EVERY_SECONDS)
        self._early_deaths = 0
        self._ready.set()

    async def _pump(self, pipe: LogPipe) -> None:
        with LogFile(self._log_path, self._say) as file:
            async for line in pipe.lines():
                file.write(line)
                self._say(line.decode("utf-8", "replace").rstrip())

    async def _end(self) -> None:
        """Kill it, and wait until the kernel has removed it."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), _REAPED_SECONDS)

    def _say(self, text: str) -> None:
        self._last_lines.append(text)
        # A terminal may go away; the process goes on, and its lines are in the file.
        with contextlib.suppress(Exception):
            self._show(self.spec.name, text)

    def _signal(self, number: signal.Signals, *, group_only: bool = False) -> None:
        if self._process is not None and (group_only or self._process.returncode is None):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    async def wait_ready(self, timeout_seconds: float) -> None:
        """Wait until it answers.

        Raises:
            ProcessFailedError: it did not in time, or keeps dying before it does.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                while not self._ready.is_set():
                    if self._early_deaths >= _EARLY_DEATHS:
                        raise ProcessFailedError(
                            self.spec.name, "keeps ending", self._last_lines, self._log_path
                        )
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._ready.wait(), _PROBE_EVERY_SECONDS)
        except TimeoutError:
            why = f"was not ready within {timeout_seconds:.0f} s"
            raise ProcessFailedError(self.spec.name, why, self._last_lines, self._log_path) from None

    async def kill(self) -> None:
        """Kill -9, and keep it down."""
        self.kill_now()
        await self._down.wait()

    def kill_now(self) -> None:
        """The same without waiting for its end."""
        self._want(False)
        self._ready.clear()
        self._signal(signal.SIGKILL)

    def start(self) -> None:
        """Let it run again."""
        self._early_deaths = 0
        self._want(True)

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL to the whole group; it stays down."""
        self._want(False)
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(self.spec.stop_seconds):
                await self._down.wait()
        except TimeoutError:
            await self.kill()
