"""The endpoints of one pool, indexed by load: which one a request gets. Pure.

Finding an endpoint looks at a bounded number of them, however many there are.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from functools import partial
from itertools import islice

from services.router.pool.endpoints import Asking, Endpoint, EndpointCapacity, Place, Servers, Spot
from services.router.pool.lazy_heap import LazyHeap

_NOTHING = EndpointCapacity(1, 1, 1)
# So many of the endpoints that hold an adapter, or that may have a slot for one, are looked at.
_TRIES = 8


class EndpointSet:
    """The endpoints of one pool, by target.

    Args:
        servers: what they carry, whichever pools name them.
        on_free: called when a request of any pool gave a place at one of them back.
        on_resident: called when an adapter is held by any of them, or by none any more.
    """

    def __init__(
        self,
        servers: Servers,
        on_free: Callable[[], object],
        on_resident: Callable[[int, bool], object],
    ) -> None:
        self._servers = servers
        self._on_free = on_free
        self._on_resident = on_resident
        self._endpoints: dict[str, Endpoint] = {}
        self._capacity = _NOTHING
        self._usable: dict[Endpoint, None] = {}
        self._leaving: dict[Endpoint, None] = {}
        # Endpoints with a place: least busy first, the headroom's places included; most KV cache free first, without
        # the headroom and with it.
        self._by_load: LazyHeap[Endpoint] = LazyHeap()
        self._by_room: LazyHeap[Endpoint] = LazyHeap()
        self._by_headroom: LazyHeap[Endpoint] = LazyHeap()
        self._holders: dict[int, dict[Endpoint, None]] = {}
        """By adapter: the endpoints that are believed to hold it."""
        self._slots: OrderedDict[Endpoint, None] = OrderedDict()
        """Endpoints with a place and a slot for one more adapter, in turn."""
        self._follows: dict[Endpoint, tuple[Callable[[], object], Callable[[int, bool], object]]] = {}

    def __iter__(self) -> Iterator[Endpoint]:
        """Every endpoint, those included that leave."""
        return iter(self._endpoints.values())

    @property
    def targets(self) -> list[str]:
        """The endpoints to probe."""
        return [endpoint.target for endpoint in self if not endpoint.leaving]

    def has(self, target: str) -> bool:
        """Whether a target is an endpoint that stays."""
        endpoint = self._endpoints.get(target)
        return endpoint is not None and not endpoint.leaving

    @property
    def requests(self) -> int:
        """Requests of this pool that hold a place."""
        return sum(endpoint.placed for endpoint in self._endpoints.copy().values())

    def in_flight_at(self, target: str) -> int:
        """Requests of any pool that run at a target's server."""
        endpoint = self._endpoints.get(target)
        return 0 if endpoint is None else endpoint.requests

    @property
    def kv_tokens(self) -> int:
        """The KV cache that requests at these endpoints can fill."""
        return sum(endpoint.kv_tokens for endpoint in self._endpoints.copy().values())

    @property
    def places(self) -> int:
        """Of all usable endpoints."""
        return sum(endpoint.places for endpoint in self._usable.copy())

    @property
    def kv_capacity_tokens(self) -> int:
        """Of all usable endpoints."""
        return len(self._usable) * self._capacity.kv_tokens

    @property
    def any_usable(self) -> bool:
        """Whether new requests may start anywhere."""
        return bool(self._usable)

    @property
    def any_place(self) -> bool:
        """Whether one more request may start anywhere, if its tokens and adapter fit."""
        return self._by_load.first() is not None

    def configure(self, targets: Collection[str], capacity: EndpointCapacity) -> None:
        """Follow the config: endpoints that stay keep their load and what is believed of them."""
        self._capacity = capacity
        for target in targets:
            known = self._endpoints.get(target)
            if known is None:
                self._add(Endpoint(target, self._servers.server(target), capacity))
            else:
                known.resize(capacity)
        self.keep_only(targets)

    def keep_only(self, targets: Collection[str]) -> None:
        """Let all other endpoints leave: nothing new starts there."""
        for endpoint in self:
            endpoint.leaving = endpoint.target not in targets
            self._index(endpoint)
        self._leaving = {endpoint: None for endpoint in self if endpoint.leaving}
        self.drop_left()

    def probed(self, target: str, ready: bool) -> bool:
        """Record what a probe found, and return whether that is news.

        A server that comes back starts with an empty adapter cache.
        """
        endpoint = self._endpoints.get(target)
        if endpoint is None or (endpoint.ready == ready and not endpoint.suspect):
            return False
        endpoint.ready, endpoint.suspect = ready, False
        if not ready:
            endpoint.server.down = True
        elif endpoint.server.down:
            endpoint.server.down = False
            endpoint.ledger.reset()
        self._index(endpoint)
        return True

    def narrow(self, target: str, window: int | None) -> bool:
        """Send an endpoint so many requests at once, at most as many as config says; returns whether that is news."""
        endpoint = self._endpoints.get(target)
        if endpoint is None or endpoint.window == window:
            return False
        endpoint.window = window
        self._index(endpoint)
        return True

    def suspect(self, endpoint: Endpoint) -> None:
        """Send nothing to an endpoint until it is probed. Requests that wait for it may go on waiting."""
        endpoint.suspect = True
        self._index(endpoint)

    def keep(self, endpoint: Endpoint) -> None:
        """Keep an endpoint from being found, by any pool of its server."""
        endpoint.server.keep(endpoint)

    def release(self, endpoint: Endpoint) -> None:
        """Let a kept endpoint be found again."""
        endpoint.server.keep(None)

    def find(self, asking: Asking, headroom: bool) -> Spot | None:
        """Where a request could run now, if anywhere, but for endpoints that are kept.

        An endpoint that holds the adapter, if it is not much busier than the least busy one; otherwise the least busy,
        and if the request does not fit there, the one with the most KV cache free, one with a slot for the adapter, or
        one that holds it.
        """
        least = self._by_load.first()
        if least is None:
            return None
        lora_id, kv_tokens = asking.demand.lora_id, asking.kv_tokens
        holders: list[Endpoint] = []
        if lora_id is not None:
            busy = least[1].requests + max(1, self._capacity.requests // 8)
            holders = [one for one in islice(self._holders.get(lora_id, ()), _TRIES) if one.open]
            holders.sort(key=lambda one: one.requests)
            for endpoint in holders:
                if endpoint.requests < busy and endpoint.admits(kv_tokens, lora_id, headroom):
                    return Spot(endpoint)
        if least[1].admits(kv_tokens, lora_id, False):
            return Spot(least[1], least[1].evicts(lora_id))
        roomiest = self._by_room.first()
        if roomiest is not None and roomiest[1].admits(kv_tokens, lora_id, False):
            return Spot(roomiest[1], roomiest[1].evicts(lora_id))
        if lora_id is not None and (spot := self._with_slot(kv_tokens, lora_id, headroom)) is not None:
            return spot
        # Busier than others, where it finds no slot.
        for endpoint in holders:
            if endpoint.admits(kv_tokens, lora_id, headroom):
                return Spot(endpoint)  # proven: busy-holders-serve
        if headroom and self._capacity.headroom:
            first = self._by_headroom.first()
            if first is not None and first[1].admits(kv_tokens, lora_id, True):
                return Spot(first[1], first[1].evicts(lora_id))
        return None

    def place(self, endpoint: Endpoint, asking: Asking) -> Place:
        """Take a place."""
        return Place(endpoint, asking)

    def adopt(self, target: str, asking: Asking) -> Place:
        """Take a place that a request has at a target already; at one that config dropped, too, until it ends."""
        endpoint = self._endpoints.get(target)
        if endpoint is None:
            endpoint = Endpoint(target, self._servers.server(target), self._capacity)
            endpoint.leaving = True
            self._add(endpoint)
            self._leaving[endpoint] = None
        if asking.demand.lora_id is not None:
            # The request runs with it, or a miss makes it send the weights again.
            endpoint.ledger.adopt(asking.demand.lora_id)
        return Place(endpoint, asking)

    def emptiest(self) -> Endpoint | None:
        """The usable endpoint with the most free KV cache that no pool keeps."""
        # Else each of two pools would empty a server for itself, and fill it again before the other's turn.
        free = (one for one in self._usable if one.server.keeper is None)
        return min(free, key=lambda endpoint: endpoint.kv_tokens, default=None)

    def drop_left(self) -> None:
        """Forget endpoints that config dropped and that nothing of this pool runs on any more."""
        if not self._leaving:
            return
        for endpoint in [one for one in self._leaving if not one.placed]:
            del self._leaving[endpoint], self._endpoints[endpoint.target]
            on_load, on_resident = self._follows.pop(endpoint)
            endpoint.server.on_load.remove(on_load)
            endpoint.server.on_free.remove(self._on_free)
            endpoint.server.on_resident.remove(on_resident)
            if not endpoint.server.on_load:
                # Probed by no pool: it may restart meanwhile.
                endpoint.server.down = True
            for lora_id in endpoint.ledger.resident:
                self._resident(endpoint, lora_id, False)

    def _with_slot(self, kv_tokens: int, lora_id: int, headroom: bool) -> Spot | None:
        """An endpoint with a slot for an adapter: one of a few, others each time."""
        for endpoint in list(islice(self._slots, _TRIES)):
            self._slots.move_to_end(endpoint)
            if endpoint.admits(kv_tokens, lora_id, headroom):
                return Spot(endpoint, endpoint.evicts(lora_id))
        return None

    def _add(self, endpoint: Endpoint) -> None:
        self._endpoints[endpoint.target] = endpoint
        follows = partial(self._index, endpoint), partial(self._resident, endpoint)
        self._follows[endpoint] = follows
        endpoint.server.on_load.append(follows[0])
        endpoint.server.on_free.append(self._on_free)
        endpoint.server.on_resident.append(follows[1])
        for lora_id in endpoint.ledger.resident:
            self._resident(endpoint, lora_id, True)

    def _resident(self, endpoint: Endpoint, lora_id: int, resident: bool) -> None:
        holders = self._holders.setdefault(lora_id, {})
        if resident:
            if not holders:
                self._on_resident(lora_id, True)
            holders[endpoint] = None
            return
        holders.pop(endpoint, None)
        if not holders:
            del self._holders[lora_id]
            self._on_resident(lora_id, False)

    def _index(self, endpoint: Endpoint) -> None:
        """Bring the indexes in line with what an endpoint carries."""
        if not endpoint.usable:
            self._usable.pop(endpoint, None)
        elif endpoint not in self._usable:
            self._usable[endpoint] = None
        if not endpoint.open:
            self._by_load.discard(endpoint)
            self._by_room.discard(endpoint)
            self._by_headroom.discard(endpoint)
            self._slots.pop(endpoint, None)
            return
        self._by_load.set(endpoint, endpoint.requests)
        if not endpoint.ledger.has_slot:
            self._slots.pop(endpoint, None)
        elif endpoint not in self._slots:
            self._slots[endpoint] = None
        headroom = endpoint.capacity.headroom
        if endpoint.requests < endpoint.shared_places:
            self._by_room.set(endpoint, -endpoint.room(False))
        else:
            self._by_room.discard(endpoint)
        if headroom:
            self._by_headroom.set(endpoint, -endpoint.room(True))
