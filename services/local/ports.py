"""Loopback ports, held for the processes that will listen on them."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

LOOPBACK = "127.0.0.1"
ANY = 0
_LISTENING = "0A"  # TCP_LISTEN in include/net/tcp_states.h


class PortTakenError(Exception):
    """Another process has the port."""

    def __init__(self, port: int) -> None:
        self.port = port
        super().__init__(f"port {port} is taken")


@contextmanager
def reserved_ports(wanted: Sequence[int]) -> Iterator[list[int]]:
    """Ports that are ours as long as the context lasts, all different.

    Each is bound here and never listened on. The intended process can bind the port too and listen, since both set
    SO_REUSEADDR. Linux gives it to no process that asks for any port and to no outgoing connection, even during a
    restart.

    Args:
        wanted: the ports; `ANY` for one that the operating system chooses.

    Raises:
        PortTakenError: another process has one of them.
    """
    with ExitStack() as stack:
        yield [reserve(stack, port) for port in wanted]


def reserve(stack: ExitStack, wanted: int) -> int:
    """Hold one port until the stack is closed.

    Raises:
        PortTakenError: another process has it.
    """
    with ExitStack() as attempt:
        try:
            if wanted != ANY:
                # Two meshes could bind a port before either listens; only one can bind this name.
                name = attempt.enter_context(socket.socket(socket.AF_UNIX))
                name.bind(f"\0tenantry-port-{wanted}")
            taken = attempt.enter_context(socket.socket())
            # Also: a run that has just ended leaves connections in TIME_WAIT, which are no reason to move.
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind((LOOPBACK, wanted))
        except OSError:
            if wanted == ANY:
                raise
            raise PortTakenError(wanted) from None
        stack.push(attempt.pop_all())
        return int(taken.getsockname()[1])


def holder(port: int) -> str:
    """The program that listens on a port, as `name (pid)`; empty where the kernel does not show it to this user."""
    sockets = _listening_sockets(port)
    if not sockets:
        return ""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(_link(fd) in sockets for fd in (folder / "fd").iterdir()):
                return f"{(folder / 'comm').read_text('utf-8', 'replace').strip()} (pid {folder.name})"
    return ""


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""


def _listening_sockets(port: int) -> set[str]:
    """The sockets that listen on a port, as links in `/proc/PID/fd` name them (proc_net_tcp.rst)."""
    found = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/net/{table}").read_text("ascii").splitlines()[1:]:
                _, local, _, state, *_, inode = line.split()[:10]
                if state == _LISTENING and int(local.rpartition(":")[2], 16) == port:
                    found.add(f"socket:[{inode}]")
    return found
