"""Tracks which LoRA adapters are resident, in which slot, and which of them may be evicted."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from triton_models.cpu_engine.errors import AdapterCacheFullError, AdapterMissError


@dataclass(slots=True)
class _Resident:
    slot: int
    users: int


class AdapterCache:
    """Least recently used eviction over idle adapters; one in use is pinned.

    An id is bound to the weights it was first put with until it is evicted, as in TensorRT-LLM. The cache keeps
    no weights, only their slots.
    """

    def __init__(self, slots: int) -> None:
        if slots < 1:
            raise ValueError("a cache needs at least one slot")
        self._residents: OrderedDict[int, _Resident] = OrderedDict()  # least recently used first
        self._free = list(range(slots - 1, -1, -1))

    def __contains__(self, task_id: int) -> bool:
        return task_id in self._residents

    def acquire(self, task_id: int) -> int:
        """Pin a resident adapter for one request and return its slot.

        Raises:
            AdapterMissError: it is not resident.
        """
        resident = self._residents.get(task_id)
        if resident is None:
            raise AdapterMissError(task_id)
        self._residents.move_to_end(task_id)
        resident.users += 1
        return resident.slot

    def put(self, task_id: int) -> int:
        """Make room for an adapter that is not resident, evicting an idle one where needed; returns its slot.

        The caller fills the slot before anything else is asked of the cache.

        Raises:
            AdapterCacheFullError: every resident adapter is pinned; nothing was evicted.
            ValueError: the adapter is resident.
        """
        if task_id in self._residents:
            raise ValueError("an adapter id is immutable while it is resident")
        if not self._free:
            idle = next((one for one, resident in self._residents.items() if not resident.users), None)
            if idle is None:
                raise AdapterCacheFullError(task_id)
            self._free.append(self._residents.pop(idle).slot)
        slot = self._free.pop()
        self._residents[task_id] = _Resident(slot, users=0)
        return slot

    def release(self, task_id: int) -> None:
        """Undo one `acquire`.

        Raises:
            ValueError: the adapter is not pinned.
        """
        resident = self._residents.get(task_id)
        if resident is None or resident.users == 0:
            raise ValueError(f"adapter {task_id} is not in use")
        resident.users -= 1
