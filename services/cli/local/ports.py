"""Loopback ports: the usual one where it is free, else one the operating system chooses."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import ExitStack

LOOPBACK = "127.0.0.1"
ANY = 0


def free_ports(wanted: Sequence[int]) -> list[int]:
    """Ports that are free now, all different; whoever needs one should bind it soon.

    Args:
        wanted: a port each, taken if it is free; `ANY` for whichever.
    """
    with ExitStack() as stack:
        return [_bind(stack, port) for port in wanted]


def _bind(stack: ExitStack, wanted: int) -> int:
    taken = stack.enter_context(socket.socket())
    # A run that has just ended leaves connections in TIME_WAIT, which are no reason to move.
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((LOOPBACK, wanted))
        taken.listen()
    except OSError:
        if wanted == ANY:
            raise
        return _bind(stack, ANY)
    return int(taken.getsockname()[1])
