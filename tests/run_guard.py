"""Ends a test run from outside, for the hangs its own process cannot see: C code that never gives the interpreter back.

Usage: python run_guard.py PID ENDS_AT SIGNAL. `PID` is the process to watch; `ENDS_AT` is a time of CLOCK_MONOTONIC in
seconds; on `SIGNAL` that process prints the stack of each of its threads. Only the standard library is used, so that
the guard starts in a few milliseconds.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from pathlib import Path

_PRINTS_SECONDS = 2.0


def main(pid: int, ends_at: float, prints_stacks: int) -> None:
    """Wait for the end of the process, and past `ends_at` make one."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    if _ended(process, ends_at - time.monotonic()):
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, prints_stacks)
    if _ended(process, _PRINTS_SECONDS):
        return
    print(f"run limit: process {pid} does not answer and is killed", file=sys.stderr, flush=True)
    end_descendants(pid)
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(process, signal.SIGKILL)


def _ended(process: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(process, select.POLLIN)
    return bool(poll.poll(max(0.0, seconds) * 1000))


def end_descendants(pid: int) -> None:
    """Kill every process that a process started, and those these started, until none is left."""
    for _ in range(10):
        descendants = descendants_of(pid) - {os.getpid()}
        if not descendants:
            return
        for descendant in descendants:
            with contextlib.suppress(OSError):
                os.kill(descendant, signal.SIGKILL)
        time.sleep(
            0.02
        )  # The kernel takes them away; what one of them forked meanwhile is found in the next round.


def descendants_of(pid: int) -> set[int]:
    """The running descendants of a process, and the processes in a session that one of them leads."""
    parents: dict[int, int] = {}
    sessions: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, ValueError):
            # The name in brackets may hold spaces and brackets: `pid (name) state parent group session ...`.
            state, parent, _group, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            if state not in "ZX":
                parents[int(entry.name)], sessions[int(entry.name)] = int(parent), int(session)
    found: set[int] = set()
    new = {pid}
    while new:
        new = {
            child
            for child, parent in parents.items()
            if child not in found and child != pid and (parent in new or sessions[child] in new - {pid})
        }
        found |= new
    return found


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
