from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from triton_models.cpu_engine.adapter_cache import AdapterCache
from triton_models.cpu_engine.errors import AdapterCacheFullError, AdapterMissError

SLOTS = 3
task_ids = st.integers(0, 5)


class AgainstAModel(RuleBasedStateMachine):
    """The cache against a list in order of use and a count of users."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = AdapterCache(SLOTS)
        self.by_use: list[int] = []
        self.slots: dict[int, int] = {}
        self.users: Counter[int] = Counter()

    @rule(task_id=task_ids)
    def acquire(self, task_id):
        if task_id not in self.slots:
            with pytest.raises(AdapterMissError):
                self.cache.acquire(task_id)
            return
        assert self.cache.acquire(task_id) == self.slots[task_id]
        self.users[task_id] += 1
        self.by_use.remove(task_id)
        self.by_use.append(task_id)

    @rule(task_id=task_ids)
    def put(self, task_id):
        if task_id in self.slots:
            with pytest.raises(ValueError, match="immutable"):
                self.cache.put(task_id)
            return
        if len(self.slots) == SLOTS:
            idle = [one for one in self.by_use if not self.users[one]]
            if not idle:
                with pytest.raises(AdapterCacheFullError):
                    self.cache.put(task_id)
                return
            self.by_use.remove(idle[0])
            del self.slots[idle[0]]
        self.slots[task_id] = self.cache.put(task_id)
        self.by_use.append(task_id)

    @rule(task_id=task_ids)
    def release(self, task_id):
        if not self.users[task_id]:
            with pytest.raises(ValueError, match="not in use"):
                self.cache.release(task_id)
            return
        self.cache.release(task_id)
        self.users[task_id] -= 1

    @invariant()
    def no_slot_has_two_owners(self):
        assert len(set(self.slots.values())) == len(self.slots)
        assert set(self.slots.values()) <= set(range(SLOTS))
        assert [one in self.cache for one in range(6)] == [one in self.slots for one in range(6)]


TestAgainstAModel = AgainstAModel.TestCase


def test_errors_are_tensorrt_llms_own():
    cache = AdapterCache(1)
    with pytest.raises(AdapterMissError) as miss:
        cache.acquire(42)
    assert str(miss.value) == "LoRA task 42 not found in cache. Please send LoRA weights with request"
    cache.put(1)
    cache.acquire(1)
    with pytest.raises(AdapterCacheFullError) as full:
        cache.put(2)
    assert str(full.value) == "PEFT Cache is full. Could not store taskId=2"
