"""The endpoints of one pool: which are ready, what each carries, and which one a request gets.

Pure. An endpoint takes as many requests, KV tokens and adapters as its capacity says and no more, so that
requests queue here, where order can be fair, and not inside the model server, where it cannot.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from services.router.pool.demand import Cost, Demand
from services.router.pool.residency import AdapterLedger, Residency


@dataclass(frozen=True, slots=True)
class EndpointCapacity:
    """The most that one endpoint carries at once."""

    requests: int
    kv_tokens: int
    adapters: int


class Endpoint:
    """One endpoint's load, and what is believed of its adapter cache."""

    def __init__(self, target: str, capacity: EndpointCapacity) -> None:
        self.target = target
        self.ledger = AdapterLedger(capacity.adapters)
        self.ready = False
        self.leaving = False
        """Whether config dropped it: what runs there ends there, nothing new starts."""
        self.requests = 0
        self.kv_tokens = 0
        self._capacity = capacity

    @property
    def usable(self) -> bool:
        """Whether new requests may start there."""
        return self.ready and not self.leaving

    @property
    def has_place(self) -> bool:
        """Whether one more request may start there, if its tokens and adapter fit."""
        return self.usable and self.requests < self._capacity.requests

    def resize(self, capacity: EndpointCapacity) -> None:
        """Follow the config; what runs beyond a smaller capacity runs on."""
        self._capacity = capacity
        self.ledger.capacity = capacity.adapters

    def admits(self, demand: Demand) -> bool:
        """Whether a request fits now; one larger than the whole cache runs alone and is the server's to refuse."""
        if not self.has_place:
            return False
        if self.requests and self.kv_tokens + demand.cost.tokens > self._capacity.kv_tokens:
            return False
        if demand.lora_id is None:
            return True
        loading = self.ledger.state(demand.lora_id) is Residency.LOADING
        return not loading and self.ledger.has_room(demand.lora_id)

    def holds(self, lora_id: int | None) -> bool:
        """Whether a request for this adapter is expected to need no weights."""
        return lora_id is None or self.ledger.state(lora_id) is Residency.RESIDENT

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


class Place:
    """One request's place at one endpoint, and its part in loading the adapter there.

    An endpoint that restarts forgets its adapters: what a place reports of the time before changes nothing.
    """

    def __init__(self, endpoint: Endpoint, demand: Demand) -> None:
        """Take the place."""
        self.endpoint = endpoint
        self.demand = demand
        self._epoch = endpoint.ledger.epoch
        endpoint.take(demand.cost)
        self.send_weights = demand.lora_id is not None and endpoint.ledger.use(demand.lora_id)
        """Whether the adapter's weights go along; at most one place at a time of each endpoint says so."""
        self._loading = self.send_weights
        self._load_number = self._newest_load()
        self._held = True

    @property
    def outdated(self) -> bool:
        """Whether the endpoint restarted since the place was taken."""
        return self.endpoint.ledger.epoch != self._epoch

    @property
    def adapter_loads(self) -> bool:
        """Whether a request is sending the adapter's weights now."""
        lora_id = self.demand.lora_id
        return lora_id is not None and self.endpoint.ledger.state(lora_id) is Residency.LOADING

    def adapter_accepted(self) -> bool:
        """Record that the endpoint answered, so that it holds the adapter; returns whether that is news."""
        if not self._loading or self.demand.lora_id is None:
            return False
        self._loading = False
        self.endpoint.ledger.loaded(self.demand.lora_id, self._epoch)
        return True

    def adapter_missed(self) -> None:
        """Record that the endpoint does not hold the adapter."""
        assert self.demand.lora_id is not None, "a request without an adapter cannot miss one"
        self.endpoint.ledger.missed(self.demand.lora_id, self._load_number, self._epoch)

    def take_reload(self) -> None:
        """Decide anew who sends the weights, while no request does."""
        assert self.demand.lora_id is not None, "a request without an adapter reloads none"
        self.send_weights = self._loading = self.endpoint.ledger.resend(self.demand.lora_id)
        self._load_number = self._newest_load()

    def give_back(self) -> None:
        """Give the place back; exactly once."""
        assert self._held, "a grant was given back twice"
        self._held = False
        lora_id, ledger = self.demand.lora_id, self.endpoint.ledger
        if lora_id is not None:
            if self._loading:
                ledger.load_failed(lora_id, self._epoch)
            ledger.release(lora_id, self._epoch)
        self.endpoint.give_back(self.demand.cost)

    def _newest_load(self) -> int:
        lora_id = self.demand.lora_id
        return 0 if lora_id is None else self.endpoint.ledger.load_number(lora_id)


class EndpointSet:
    """The endpoints of one pool, by target."""

    def __init__(self) -> None:
        self._endpoints: dict[str, Endpoint] = {}

    def __iter__(self) -> Iterator[Endpoint]:
        """Every endpoint, those included that leave."""
        return iter(self._endpoints.values())

    @property
    def targets(self) -> list[str]:
        """The endpoints to probe."""
        return [endpoint.target for endpoint in self if not endpoint.leaving]

    @property
    def requests(self) -> int:
        """Requests holding a place."""
        return sum(endpoint.requests for endpoint in self)

    @property
    def any_usable(self) -> bool:
        """Whether new requests may start anywhere."""
        return any(endpoint.usable for endpoint in self)

    @property
    def any_place(self) -> bool:
        """Whether one more request may start anywhere, if its tokens and adapter fit."""
        return any(endpoint.has_place for endpoint in self)

    def configure(self, targets: Collection[str], capacity: EndpointCapacity) -> None:
        """Follow the config: endpoints that stay keep their load and what is believed of them."""
        for target in targets:
            known = self._endpoints.get(target)
            if known is None:
                self._endpoints[target] = Endpoint(target, capacity)
            else:
                known.resize(capacity)
        self.keep_only(targets)

    def keep_only(self, targets: Collection[str]) -> None:
        """Let all other endpoints leave: nothing new starts there."""
        for endpoint in self:
            endpoint.leaving = endpoint.target not in targets
        self.drop_left()

    def probed(self, target: str, ready: bool) -> bool:
        """Record what a probe found, and return whether that is news.

        An endpoint that comes back starts with an empty adapter cache.
        """
        endpoint = self._endpoints.get(target)
        if endpoint is None or endpoint.ready == ready:
            return False
        endpoint.ready = ready
        if ready:
            endpoint.ledger.reset()
        return True

    def place(self, demand: Demand, kept: Endpoint | None) -> Place | None:
        """A place for a request, if there is one anywhere but at the endpoint that is kept for another.

        The endpoint with the fewest requests among those with room; of equals the one that holds the adapter.
        """
        room = (endpoint for endpoint in self if endpoint is not kept and endpoint.admits(demand))
        chosen = min(room, key=lambda one: (one.requests, not one.holds(demand.lora_id)), default=None)
        return None if chosen is None else Place(chosen, demand)

    def emptiest(self) -> Endpoint | None:
        """The usable endpoint with the most free KV cache."""
        usable = (endpoint for endpoint in self if endpoint.usable)
        return min(usable, key=lambda endpoint: endpoint.kv_tokens, default=None)

    def drop_left(self) -> None:
        """Forget endpoints that config dropped and that nothing runs on any more."""
        for endpoint in list(self):
            if endpoint.leaving and not endpoint.requests:
                del self._endpoints[endpoint.target]
