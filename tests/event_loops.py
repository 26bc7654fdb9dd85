"""Event loops for tests: a test's loop closes while gRPC still works for it, which no process of the product does.

One poller serves every loop of a process. It hands a completion to the loop that asked for it, from a callback of the
loop that runs now. If the first one is closed, `call_soon_threadsafe` raises in the second one, which logs it: a test
that looks at its log fails for what an earlier test left. A cancelled call's completion comes that late on a busy
machine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import TypeVarTuple, Unpack

_Ts = TypeVarTuple("_Ts")
_GRPC_COMPLETION = "_handle_callback_wrapper"


class QuietlyClosedLoop(asyncio.SelectorEventLoop):
    """Drops what gRPC completes after the loop was closed: nothing waits for it any more."""

    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[_Ts]], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.Handle:
        if self.is_closed() and getattr(callback, "__name__", "") == _GRPC_COMPLETION:
            return asyncio.Handle(callback, args, self, context)
        return super().call_soon_threadsafe(callback, *args, context=context)


class QuietlyClosedLoops(asyncio.DefaultEventLoopPolicy):
    """Makes every loop of a test process a `QuietlyClosedLoop`."""

    _loop_factory = QuietlyClosedLoop
