"""The pool as the pipeline sees it: one call that waits for a place, one object that gives it back.

A place is decided once, over one ledger: which endpoint, whether it has room in flight and in KV cache, and
whether the adapter's weights must be sent along.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self


@dataclass(frozen=True, slots=True)
class Cost:
    """What a request can come to at most."""

    input_tokens: int
    max_output_tokens: int

    @property
    def tokens(self) -> int:
        """KV cache it can fill."""
        return self.input_tokens + self.max_output_tokens


class Grant(Protocol):
    """A place at an endpoint; an async context manager, given back exactly once however it is left."""

    @property
    def target(self) -> str:
        """The endpoint's gRPC target."""
        ...

    @property
    def send_weights(self) -> bool:
        """Whether the adapter's weights go along; at most one request at a time is told so for an endpoint."""
        ...

    @property
    def withdrawn(self) -> bool:
        """Whether the pool is another by now, or gone: nothing may be sent any more, what was sent ends there."""
        ...

    def adapter_accepted(self) -> None:
        """The endpoint answered: it holds the adapter now."""
        ...

    async def adapter_missed(self) -> None:
        """The endpoint does not hold the adapter; waits until `send_weights` says anew what to send.

        Raises:
            UnavailableError: the endpoint went away meanwhile.
        """
        ...

    def endpoint_failed(self) -> None:
        """The endpoint broke the stream or refused the connection: nobody is sent there until it is probed."""
        ...

    def charge(self, output_tokens: int) -> None:
        """Count tokens as they are generated, for the fair queue."""
        ...

    async def __aenter__(self) -> Self:
        """Hold the place."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the place back."""
        ...


class Pool(Protocol):
    """Decides where and when a request runs."""

    async def acquire(self, tenant_uid: str, cost: Cost, lora_id: int | None) -> Grant:
        """Wait for a place, as long as the caller's own deadline allows; cancel-safe.

        Raises:
            ResourceExhaustedError: the queue is full.
            UnavailableError: no endpoint is ready.
        """
        ...
