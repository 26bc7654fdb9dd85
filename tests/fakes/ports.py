"""Loopback ports of this test process, kept from every other one until it ends: workers run side by side."""

from __future__ import annotations

import atexit
from contextlib import ExitStack

from services.local.ports import ANY, reserved_ports

_held = ExitStack()
atexit.register(_held.close)


def own_ports(count: int) -> list[int]:
    """As many, all different; whatever is started on one may stop and start again."""
    return _held.enter_context(reserved_ports([ANY] * count))
