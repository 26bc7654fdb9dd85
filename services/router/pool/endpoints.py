"""One endpoint of a pool, the server behind it, and the places that requests have there. Pure.

An endpoint takes as many requests, KV tokens and adapters as its capacity says and no more, so that requests queue
here, where order can be fair, and not inside the model server, where it cannot. What a server carries is counted once,
whichever pools name it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol
from weakref import WeakValueDictionary

from services.common.rpc.targets import canonical
from services.router.pool.demand import Demand
from services.router.pool.residency import AdapterLedger, Residency

_ENDLESS = float("inf")


@dataclass(frozen=True, slots=True)
class EndpointCapacity:
    """The most that one endpoint carries at once."""

    requests: int
    kv_tokens: int
    adapters: int
    headroom: int = 0
    """Of the requests: how many places only tenants below their share may take, with as much of the KV cache."""

    @property
    def headroom_kv_tokens(self) -> int:
        """The headroom's part of the KV cache."""
        return self.kv_tokens * self.headroom // self.requests


@dataclass(slots=True, eq=False, weakref_slot=True)
class Server:
    """What one model server carries, and what is believed of its adapter cache."""

    requests: int = 0
    kv_tokens: int = 0
    ledger: AdapterLedger = field(default_factory=lambda: AdapterLedger(0))
    down: bool = True
    """Whether it was found down since its adapter cache was last known."""
    keeper: Endpoint | None = None
    """The endpoint, of one pool, as which it is kept for one request."""
    on_load: list[Callable[[], object]] = field(default_factory=list)
    """Called when the load changes: by every pool that names the server."""
    on_free: list[Callable[[], object]] = field(default_factory=list)
    """Called when a place was given back: by every pool that names the server."""
    on_resident: list[Callable[[int, bool], object]] = field(default_factory=list)
    """Called when an adapter becomes resident, or is so no longer."""

    def __post_init__(self) -> None:
        self.ledger.on_change = self._residency_changed

    def add(self, requests: int, kv_tokens: int) -> None:
        """Count load in, or out."""
        self.requests += requests
        self.kv_tokens += kv_tokens
        assert self.requests >= 0, "a place was given back twice"
        assert self.kv_tokens >= 0, "a place was given back twice"
        self._load_changed()

    def keep(self, keeper: Endpoint | None) -> None:
        """Keep it for one request of a pool, or for none."""
        self.keeper = keeper
        self._load_changed()

    def give_turn(self) -> None:
        """Let the pools serve what can run here now; another one first each time."""
        turns = list(self.on_free)
        if len(turns) > 1:
            self.on_free.append(self.on_free.pop(0))  # proven: pools-in-turn
        for serve in turns:
            serve()

    def _load_changed(self) -> None:
        for follow in self.on_load:
            follow()

    def _residency_changed(self, lora_id: int, resident: bool) -> None:
        for follow in self.on_resident:
            follow(lora_id, resident)


class Servers:
    """Every server that a pool names or a request runs at: one ledger for a target, whatever names it."""

    def __init__(self) -> None:
        self._servers: WeakValueDictionary[str, Server] = WeakValueDictionary()

    def server(self, target: str) -> Server:
        """The server of a target."""
        key = canonical(target)
        known = self._servers.get(key)
        if known is None:
            known = self._servers[key] = Server()  # proven: one-ledger-a-server
        return known


class Endpoint:
    """A server as one pool sees it: with the pool's capacity and the state of the pool's model there."""

    def __init__(self, target: str, server: Server, capacity: EndpointCapacity) -> None:
        self.target = target
        """Its gRPC target."""
        self.server = server
        self.ready = False
        self.leaving = False
        """Whether config dropped it: what runs there ends there, nothing new starts."""
        self.suspect = False
        """Whether it did not end work in time and was not probed since."""
        self.placed = 0
        """Requests of this pool that run there."""
        self.window: int | None = None
        """Places while fewer are used than config gives: some wait inside the server."""
        self.resize(capacity)

    @property
    def ledger(self) -> AdapterLedger:
        """What is believed of its adapter cache."""
        return self.server.ledger

    @property
    def requests(self) -> int:
        """Requests that run there."""
        return self.server.requests

    @property
    def kv_tokens(self) -> int:
        """The KV cache that they can fill."""
        return self.server.kv_tokens

    @property
    def usable(self) -> bool:
        """Whether new requests may start there."""
        return self.ready and not self.leaving

    @property
    def open(self) -> bool:
        """Whether one more request may start there, if its tokens and adapter fit and it may use the headroom."""
        return (
            self.usable
            and self.server.keeper is None  # proven: kept-from-every-pool
            and not self.suspect
            and self.server.requests < self.places
        )

    @property
    def places(self) -> int:
        """Requests that it is sent at once."""
        most = self.capacity.requests
        return most if self.window is None else min(self.window, most)

    @property
    def shared_places(self) -> int:
        """Those of its places that tenants above their share may take, too."""
        return max(1, self.places - self.capacity.headroom)

    def resize(self, capacity: EndpointCapacity) -> None:
        """Follow the config; what runs beyond a smaller capacity runs on."""
        self.capacity = capacity
        self._kv_tokens = capacity.kv_tokens - capacity.headroom_kv_tokens
        self.server.ledger.capacity = capacity.adapters

    def room(self, headroom: bool) -> float:
        """The KV tokens that are free; infinite while nothing runs there."""
        if not self.server.requests:
            return _ENDLESS
        return (self.capacity.kv_tokens if headroom else self._kv_tokens) - self.server.kv_tokens

    def admits(self, kv_tokens: int, lora_id: int | None, headroom: bool) -> bool:
        """Whether a request fits now; one larger than the whole cache runs alone and is the server's to refuse."""
        places = self.places if headroom else self.shared_places
        if self.server.requests >= places or not self.ready or self.leaving or self.suspect:
            return False
        if kv_tokens > self.room(headroom):
            return False
        if lora_id is None:
            return True
        ledger = self.server.ledger
        return ledger.state(lora_id) is not Residency.LOADING and ledger.has_room(lora_id)

    def evicts(self, lora_id: int | None) -> bool:
        """Whether a request for this adapter is expected to push another adapter out."""
        return lora_id is not None and self.ledger.full and self.ledger.state(lora_id) is Residency.ABSENT


@dataclass(slots=True)
class Spot:
    """An endpoint where a request could run."""

    endpoint: Endpoint
    evicts: bool = False
    """Whether its adapter would push another one out there."""


class Asking(Protocol):
    """What a place is taken for: `Ticket`."""

    @property
    def demand(self) -> Demand:
        """What is asked."""
        ...

    @property
    def kv_tokens(self) -> int:
        """The KV cache it can fill."""
        ...


class Place:
    """One request's place at one endpoint, and its part in loading the adapter there.

    An endpoint that restarts forgets its adapters: what a place reports of the time before changes nothing.
    """

    def __init__(self, endpoint: Endpoint, asking: Asking) -> None:
        """Take the place."""
        self.endpoint = endpoint
        self._lora_id = asking.demand.lora_id
        self._kv_tokens = asking.kv_tokens
        self._epoch = endpoint.ledger.epoch
        self.send_weights = self._lora_id is not None and endpoint.ledger.use(self._lora_id)
        """Whether the adapter's weights go along; at most one place at a time of each endpoint says so."""
        endpoint.placed += 1
        endpoint.server.add(1, self._kv_tokens)
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
        lora_id = self._lora_id
        return lora_id is not None and self.endpoint.ledger.state(lora_id) is Residency.LOADING

    def adapter_accepted(self) -> bool:
        """Record that the endpoint answered, so that it holds the adapter; returns whether that is news."""
        if not self._loading or self._lora_id is None:
            return False
        self._loading = False
        self.endpoint.ledger.loaded(self._lora_id, self._epoch)
        return True

    def adapter_missed(self) -> None:
        """Record that the endpoint does not hold the adapter."""
        assert self._lora_id is not None, "a request without an adapter cannot miss one"
        self.endpoint.ledger.missed(self._lora_id, self._load_number, self._epoch)

    def take_reload(self) -> None:
        """Decide anew who sends the weights, while no request does."""
        assert self._lora_id is not None, "a request without an adapter reloads none"
        self.send_weights = self._loading = self.endpoint.ledger.resend(self._lora_id)
        self._load_number = self._newest_load()

    def give_back(self) -> None:
        """Give the place back; exactly once."""
        assert self._held, "a grant was given back twice"
        self._held = False
        if self._lora_id is not None:
            if self._loading:
                self.endpoint.ledger.load_failed(self._lora_id, self._epoch)
            self.endpoint.ledger.release(self._lora_id, self._epoch)
        self.endpoint.placed -= 1
        self.endpoint.server.add(-1, -self._kv_tokens)

    def _newest_load(self) -> int:
        return 0 if self._lora_id is None else self.endpoint.ledger.load_number(self._lora_id)
