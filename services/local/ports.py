"""Loopback ports: the usual one where nobody has it, else one the operating system chooses."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

LOOPBACK = "127.0.0.1"
ANY = 0


@contextmanager
def reserved_ports(wanted: Sequence[int]) -> Iterator[list[int]]:
    """Ports that are ours as long as the context lasts, all different.

    Each is bound here and never listened on. Linux lets the process it is for bind it as well and listen, if both
    sides set SO_REUSEADDR, as servers do; but it gives it to nobody who asks for any port, and to no outgoing
    connection, also while that process is between two lives.

    Args:
        wanted: a port each, taken if nobody has it; `ANY` for whichever.
    """
    with ExitStack() as stack:
        yield [_reserve(stack, port) for port in wanted]


def _reserve(stack: ExitStack, wanted: int) -> int:
    with ExitStack() as attempt:
        try:
            if wanted != ANY:
                # Two of us could both bind a port neither listens on yet; of this name there is but one.
                name = attempt.enter_context(socket.socket(socket.AF_UNIX))
                name.bind(f"\0tenantry-port-{wanted}")
            taken = attempt.enter_context(socket.socket())
            # Also: a run that has just ended leaves connections in TIME_WAIT, which are no reason to move.
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind((LOOPBACK, wanted))
        except OSError:
            if wanted == ANY:
                raise
            return _reserve(stack, ANY)
        stack.push(attempt.pop_all())
        return int(taken.getsockname()[1])
