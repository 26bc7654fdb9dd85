"""Estimates what each endpoint's adapter cache holds.

Pure. TensorRT-LLM's engine backend neither lists its cache nor unloads: the router sends weights once, then ids, and
learns of evictions by misses. An estimate is a reason to try without weights, never a promise. An epoch ends when an
endpoint restarts; reports about an older epoch change nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto


class Residency(Enum):
    """The estimate for one adapter at one endpoint."""

    ABSENT = auto()
    """The next request sends the weights."""
    LOADING = auto()
    """One request is sending them; the others wait for how it ends."""
    RESIDENT = auto()
    """Requests send the id only."""


@dataclass(slots=True)
class AdapterLedger:
    """One endpoint's adapters, the least recently used first."""

    capacity: int
    """Adapters the endpoint can hold."""
    epoch: int = 0
    _loads: int = 0
    _resident: OrderedDict[int, int] = field(default_factory=OrderedDict)
    _loading: set[int] = field(default_factory=set)
    _users: dict[int, int] = field(default_factory=dict)
    on_change: Callable[[int, bool], object] | None = None
    """Called when an adapter becomes resident, or is so no longer."""

    @property
    def resident(self) -> list[int]:
        """The adapters it is believed to hold."""
        return list(self._resident)

    @property
    def full(self) -> bool:
        """Whether one more adapter pushes another one out."""
        return len(self._resident) + len(self._loading) >= self.capacity

    def state(self, lora_id: int) -> Residency:
        """The estimate."""
        if lora_id in self._loading:
            return Residency.LOADING
        return Residency.RESIDENT if lora_id in self._resident else Residency.ABSENT

    @property
    def has_slot(self) -> bool:
        """Whether one more adapter can be held beside those in use."""
        return len(self._users) < self.capacity

    def has_room(self, lora_id: int) -> bool:
        """Whether it can be held beside those in use, which the endpoint cannot evict."""
        return lora_id in self._users or len(self._users) < self.capacity

    def use(self, lora_id: int) -> bool:
        """Count a user in; whether that user sends the weights. Not for an adapter that is loading."""
        assert lora_id not in self._loading, "a second sender"
        self._users[lora_id] = self._users.get(lora_id, 0) + 1
        if lora_id in self._resident:
            self._resident.move_to_end(lora_id)
            return False
        self._loading.add(lora_id)
        return True

    def release(self, lora_id: int, epoch: int) -> None:
        """Count a user out."""
        if epoch != self.epoch:
            return
        left = self._users[lora_id] - 1
        if left:
            self._users[lora_id] = left
        else:
            del self._users[lora_id]
            self._shed()

    def load_number(self, lora_id: int) -> int:
        """The number of the load that brought the adapter there, by the estimate; 0 for none."""
        return self._resident.get(lora_id, 0)

    def missed(self, lora_id: int, load_number: int, epoch: int) -> None:
        """Record that an id-only request, which relied on a load, found nothing; a later load still counts."""
        if epoch == self.epoch and self._resident.get(lora_id) == load_number:
            self._forget(lora_id)

    def resend(self, lora_id: int) -> bool:
        """After a miss: make the caller the sender of the weights, or report that they arrived meanwhile."""
        assert lora_id not in self._loading, "a second sender"
        if lora_id in self._resident:
            return False
        self._loading.add(lora_id)
        return True

    def loaded(self, lora_id: int, epoch: int) -> None:
        """Record that the sender was answered: the endpoint holds the adapter."""
        if epoch != self.epoch:
            return
        self._loading.discard(lora_id)
        self._loads += 1
        self._resident[lora_id] = self._loads
        self._resident.move_to_end(lora_id)
        if self.on_change is not None:
            self.on_change(lora_id, True)
        self._shed()

    def adopt(self, lora_id: int) -> None:
        """Believe that the endpoint holds an adapter with which a request runs there."""
        if self.state(lora_id) is not Residency.RESIDENT:
            self.loaded(lora_id, self.epoch)

    def load_failed(self, lora_id: int, epoch: int) -> None:
        """Record that the sender ended before it was known whether the weights arrived."""
        if epoch == self.epoch:
            self._loading.discard(lora_id)

    def reset(self) -> None:
        """Forget everything: the endpoint restarted."""
        self.epoch += 1
        for lora_id in list(self._resident):
            self._forget(lora_id)
        self._loading.clear()
        self._users.clear()

    def _shed(self) -> None:
        """Follow the endpoint's own LRU: of the adapters not in use the oldest goes first."""
        surplus = len(self._resident) - self.capacity
        if surplus > 0:
            for lora_id in [known for known in self._resident if known not in self._users][:surplus]:
                self._forget(lora_id)

    def _forget(self, lora_id: int) -> None:
        del self._resident[lora_id]
        if self.on_change is not None:
            self.on_change(lora_id, False)
