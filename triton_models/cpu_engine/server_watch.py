"""Ends a model's process with its Triton server and the server with it; Triton's python backend does neither."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

_PROBE_SECONDS = 0.25
_PARENT_POLL_SECONDS = 0.25
_CONNECT_TIMEOUT_SECONDS = 0.5
_RELEASE_TIMEOUT_SECONDS = 2.0
_RELEASED = "released"
# $0 is the server, $1 when it started (field 22 of its stat): the server may be gone, and its number another
# process's. The pipe ends without the word when this process ends in any way.
_GUARD = f"""
read -r word
[ "$word" = {_RELEASED} ] && exit
started=$1
read -r stat < "/proc/$0/stat" && set -- ${{stat##*) }} && [ "${{20}}" = "$started" ] && kill -KILL "$0"
"""


class ServerWatch:
    """Notices that the server is stopping by one of its ports.

    A stopping server closes its ports at once, but finalizes a model only after its last request is answered.

    Args:
        port: A loopback TCP port that the server listens on while it serves.
        clock: Monotonic seconds.
    """

    def __init__(self, port: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._port = port
        self._clock = clock
        self._next_probe_seconds = clock()
        self._was_open = False
        self._stopping = False

    def stopping(self) -> bool:
        """Whether the server has closed its port; cheap enough for every step."""
        if not self._stopping and self._clock() >= self._next_probe_seconds:
            self._next_probe_seconds = self._clock() + _PROBE_SECONDS
            self._stopping = self._closed()
        return self._stopping

    def _closed(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self._port), _CONNECT_TIMEOUT_SECONDS):
                self._was_open = True
        except ConnectionRefusedError:
            return self._was_open  # a request can come in over gRPC just before this port opens
        except OSError:
            pass  # no descriptor, or no answer in time: the server may still serve
        return False


def exit_with_parent() -> threading.Thread:
    """Start a thread that ends this process when the one that started it is gone.

    A killed server gives no notice: every thread of its python stub that talks to it waits on shared memory without
    end, and an orderly exit of the interpreter would wait for those threads.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_POLL_SECONDS)
        os._exit(1)

    thread = threading.Thread(target=watch, name="parent-watch", daemon=True)
    thread.start()
    return thread


def stop_parent(parent: int) -> None:
    """Ask the process that started this one to stop.

    Args:
        parent: Its process id as it was at the start. Once it is gone, another process is the parent, in a container
            the first one, whose end ends all.
    """
    if os.getppid() == parent:
        os.kill(parent, signal.SIGTERM)


class ParentGuard:
    """Kills the process that started this one when this one dies without `release`.

    A server whose python stub was killed (out of memory, say) goes on reporting that it is ready, fails each request
    and leaves those in flight unanswered; some do not even end at SIGTERM. Killed, it can be started again. A process
    of its own does the killing, since nothing in this one outlives a kill.

    Args:
        parent: Its process id as it was at the start.

    Raises:
        OSError: it is gone.
    """

    def __init__(self, parent: int) -> None:
        started = Path(f"/proc/{parent}/stat").read_text("utf-8").rpartition(")")[2].split()[19]
        if os.getppid() != parent:
            raise ProcessLookupError(parent, "the process that started this one is gone")
        self._guard = subprocess.Popen(  # noqa: S603 -- a fixed script and two numbers
            ["/bin/sh", "-c", _GUARD, str(parent), started],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C in the terminal is for the server
        )

    def release(self) -> None:
        """Let the parent live: this process ends in order.

        Raises:
            subprocess.TimeoutExpired: the guard did not end.
        """
        self._guard.communicate(f"{_RELEASED}\n".encode(), _RELEASE_TIMEOUT_SECONDS)
