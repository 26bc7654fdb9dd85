"""A place at an endpoint, as the request that holds it sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from services.common.errors import Reason, UnavailableError
from services.router.flow.events import (
    AdapterAccepted,
    AdapterMissed,
    Ask,
    Ended,
    EndpointFailed,
    Granted,
    RequestEvent,
    Used,
)
from services.router.pool.pool_kind import PoolKind

_RETRY_SECONDS = 1.0
_USED_TOKENS = 8
"""Little beside the slack of a queue, and an event for each token would cost a tenth of relaying it."""


class Holder(Protocol):
    """Where a grant's request comes from: `requests.Requests`."""

    def serves(self, kind: PoolKind, target: str) -> bool:
        """Whether requests for a pool may still be sent to a target."""
        ...

    def send(self, event: RequestEvent) -> None:
        """Send an event to the flow controller, if there is one."""
        ...

    def over(self, ended: Ended) -> None:
        """Let a granted request end."""
        ...


class Grant:
    """A place at an endpoint; an async context manager, given back exactly once however it is left.

    The place is free again once the server's work has ended, too.
    """

    def __init__(self, holder: Holder, ask: Ask, granted: Granted) -> None:
        self.ask = ask
        self.target = granted.target
        """The endpoint's gRPC target."""
        self.send_weights = granted.send_weights
        """Whether the adapter's weights go along; at most one grant at a time of each endpoint says so."""
        self.queued_seconds = granted.queued_seconds
        """How long the request waited for the place."""
        self.counter = granted.service_counter
        """The tenant's counter in the pool's queue, as heard with the grant."""
        self.output_tokens = 0
        self._charge_at = 1
        """At how many tokens in all the next ones are charged: at the first, then every few."""
        self._holder = holder
        self._reload: asyncio.Future[bool] | None = None
        self._prompt_used = True
        self._in_time = True
        self._accepted = False
        self._left = False
        self._works = 0
        self._task: asyncio.Task[object] | None = None
        self._fenced = False

    @property
    def withdrawn(self) -> bool:
        """Whether pool or endpoint are gone: nothing may be sent any more, what was sent ends there."""
        return not self._holder.serves(self.ask.pool, self.target)

    def adapter_accepted(self) -> None:
        """Record that the endpoint answered: it holds the adapter now."""
        if self.send_weights and not self._accepted:
            self._accepted = True
            self._holder.send(AdapterAccepted(self.ask.number))

    async def adapter_missed(self) -> None:
        """Record that the endpoint does not hold the adapter; wait until `send_weights` says anew what to send.

        Raises:
            UnavailableError: the endpoint went away meanwhile, or the flow controller did.
        """
        self._reload = asyncio.get_running_loop().create_future()
        self._accepted = False
        self._holder.send(AdapterMissed(self.ask.number))
        try:
            self.send_weights = await self._reload
        finally:
            self._reload = None

    def reloaded(self, send_weights: bool | UnavailableError) -> None:
        """Take the answer to a missed adapter."""
        if self._reload is None or self._reload.done():
            return
        if isinstance(send_weights, bool):
            self._reload.set_result(send_weights)
        else:
            self._reload.set_exception(send_weights)

    def endpoint_failed(self) -> None:
        """Send nothing to the endpoint until it is probed: it broke the stream or refused the connection."""
        self._holder.send(EndpointFailed(self.ask.number))

    def charge(self, output_tokens: int) -> None:
        """Charge tokens as they are generated, a few at a time; the last ones when the place is given back."""
        self.output_tokens += output_tokens
        if self.output_tokens >= self._charge_at:
            self._charge_at = self.output_tokens + _USED_TOKENS
            self._holder.send(Used(self.ask.number, self.output_tokens))

    def refund_prompt(self) -> None:
        """Take back what the prompt was charged: its server failed before it was known to have run."""
        self._prompt_used = False

    def linger(self) -> Callable[[bool], None]:
        """Keep the place although its holder leaves: the server still works on the request.

        Returns what is to be called once, when that work has ended: with False if it did not end in time, so that the
        endpoint is sent nothing until it is probed.
        """
        self._works += 1
        return self._work_ended

    def fence(self) -> None:
        """End the request: its place may be another one's by now."""
        self.reloaded(unreachable())
        if self._task is not None and not self._left:
            self._fenced = True
            self._task.cancel()

    @property
    def left(self) -> bool:
        """Whether only the server still works for it."""
        return self._left

    async def __aenter__(self) -> Self:
        """Hold the place."""
        self._task = asyncio.current_task()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the place back.

        Raises:
            UnavailableError: the request was ended because no flow controller was reached.
        """
        task, self._task = self._task, None
        self.give_back()
        if self._fenced and task is not None and task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise unreachable() from error

    def give_back(self) -> None:
        """Leave the place; exactly once. It is free once the server has stopped working for it."""
        assert not self._left, "a grant was given back twice"
        self._left = True
        self._give_back_if_over()

    def _work_ended(self, in_time: bool) -> None:
        self._works -= 1
        self._in_time = self._in_time and in_time
        self._give_back_if_over()

    def _give_back_if_over(self) -> None:
        if self._left and not self._works:  # proven: place-held-while-the-server-works
            self._holder.over(Ended(self.ask.number, self.output_tokens, self._prompt_used, self._in_time))


def unreachable() -> UnavailableError:
    """The refusal while no flow controller is reached."""
    return UnavailableError(
        "no flow controller is reached",
        reason=Reason.FLOW_UNAVAILABLE,
        retry_after_seconds=_RETRY_SECONDS,
    )
