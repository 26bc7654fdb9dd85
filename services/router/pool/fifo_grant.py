"""A place at one endpoint of a `FifoPool`, and what its holder tells the pool about the adapter."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from services.common.errors import Reason, UnavailableError
from services.router.pool.endpoints import EndpointState
from services.router.pool.pool import Cost

if TYPE_CHECKING:
    from services.router.pool.fifo import FifoPool

# About the time until a probe finds an endpoint that came back.
RETRY_SECONDS = 1.0


class FifoGrant:
    """A place at one endpoint of a `FifoPool`; see `Grant`."""

    def __init__(
        self, pool: FifoPool, endpoint: EndpointState, cost: Cost, lora_id: int | None, send_weights: bool
    ) -> None:
        self._pool = pool
        self._endpoint = endpoint
        self._cost = cost
        self._lora_id = lora_id
        self._epoch = endpoint.ledger.epoch
        self._load_number = endpoint.ledger.load_number(lora_id) if lora_id is not None else 0
        self._loading = send_weights
        self._held = True
        self.send_weights = send_weights

    @property
    def target(self) -> str:
        """The endpoint's gRPC target."""
        return self._endpoint.target

    @property
    def withdrawn(self) -> bool:
        """Whether the pool is gone; see `Grant`."""
        return self._pool.retired

    def adapter_accepted(self) -> None:
        """The endpoint answered: it holds the adapter now."""
        if self._loading and self._lora_id is not None:
            self._loading = False
            self._endpoint.ledger.loaded(self._lora_id, self._epoch)
            self._pool.changed()

    async def adapter_missed(self) -> None:
        """The endpoint does not hold the adapter; waits until `send_weights` says anew what to send."""
        assert self._lora_id is not None, "a request without an adapter cannot miss one"
        ledger = self._endpoint.ledger
        ledger.missed(self._lora_id, self._load_number, self._epoch)
        await self._pool.reload_turn(self._endpoint, self._lora_id)
        if ledger.epoch != self._epoch:
            raise none_ready()
        self.send_weights = self._loading = ledger.resend(self._lora_id)
        self._load_number = ledger.load_number(self._lora_id)

    def endpoint_failed(self) -> None:
        """Send nobody to the endpoint until it is probed."""
        if self._endpoint.ledger.epoch == self._epoch:
            self._pool.probed(self._endpoint.target, ready=False)

    def charge(self, output_tokens: int) -> None:
        """Nothing: order of arrival takes no account of tokens."""

    async def __aenter__(self) -> Self:
        """Hold the place."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the place back."""
        self.give_back()

    def give_back(self) -> None:
        """Give the place back; exactly once."""
        assert self._held, "a grant was given back twice"
        self._held = False
        ledger = self._endpoint.ledger
        if self._lora_id is not None:
            if self._loading:
                ledger.load_failed(self._lora_id, self._epoch)
            ledger.release(self._lora_id, self._epoch)
        self._endpoint.give_back(self._cost)
        self._pool.changed()


def none_ready() -> UnavailableError:
    """What callers are told while no endpoint of a pool serves."""
    return UnavailableError(
        "no model server of the pool is ready",
        reason=Reason.NO_READY_ENDPOINT,
        retry_after_seconds=RETRY_SECONDS,
    )
