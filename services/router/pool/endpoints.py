"""The endpoints of one pool: which are ready, what each carries, and which one is next.

Pure. An endpoint takes as many requests, KV tokens and adapters as its capacity says and no more, so that
requests queue here, where order can be fair, and not inside the model server, where it cannot.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from services.router.pool.pool import Cost
from services.router.pool.residency import AdapterLedger, Residency


@dataclass(frozen=True, slots=True)
class EndpointCapacity:
    """What one endpoint carries at once."""

    requests: int
    kv_tokens: int


@dataclass(slots=True)
class EndpointState:
    """One endpoint's load."""

    target: str
    capacity: EndpointCapacity
    ledger: AdapterLedger
    ready: bool = False
    leaving: bool = False
    """Whether config dropped it: what runs there ends there, nothing new starts."""
    requests: int = 0
    kv_tokens: int = 0

    def admits(self, cost: Cost, lora_id: int | None) -> bool:
        """Whether a request fits now; one larger than the whole cache runs alone and is the server's to refuse."""
        if not self.ready or self.leaving or self.requests >= self.capacity.requests:
            return False
        if self.requests and self.kv_tokens + cost.tokens > self.capacity.kv_tokens:
            return False
        if lora_id is None:
            return True
        return self.ledger.state(lora_id) is not Residency.LOADING and self.ledger.has_room(lora_id)

    def take(self, cost: Cost) -> None:
        """Count a request in."""
        self.requests += 1
        self.kv_tokens += cost.tokens

    def give_back(self, cost: Cost) -> None:
        """Count a request out."""
        self.requests -= 1
        self.kv_tokens -= cost.tokens
        assert self.requests >= 0, "a place was given back twice"
        assert self.kv_tokens >= 0, "a place was given back twice"


def pick(endpoints: Iterable[EndpointState], cost: Cost, lora_id: int | None) -> EndpointState | None:
    """The endpoint with the fewest requests among those with room; of equals the one that holds the adapter."""

    def rank(endpoint: EndpointState) -> tuple[int, bool]:
        resident = lora_id is None or endpoint.ledger.state(lora_id) is Residency.RESIDENT
        return endpoint.requests, not resident

    return min((e for e in endpoints if e.admits(cost, lora_id)), key=rank, default=None)
