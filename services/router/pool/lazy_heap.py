"""A heap whose items' keys change. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from typing import Any, Generic, TypeVar

ItemT = TypeVar("ItemT")
_SLACK = 64


class LazyHeap(Generic[ItemT]):
    """Items with the smallest key first; `set` and `discard` cost O(log n), outdated entries are dropped when met.

    Of equal keys the one that was set first comes first. An entry is current while it is the one its item was last set
    with; at most about half of the entries are outdated.
    """

    def __init__(self) -> None:
        self._entries: list[tuple[Any, int, ItemT]] = []
        self._current: dict[ItemT, tuple[Any, int, ItemT]] = {}
        self._number = 0

    def __len__(self) -> int:
        """Items."""
        return len(self._current)

    def __iter__(self) -> Iterator[ItemT]:
        """The items, in no order."""
        return iter(self._current)

    def key(self, item: ItemT) -> Any | None:
        """The key an item has; None if it is not there."""
        entry = self._current.get(item)
        return None if entry is None else entry[0]

    def set(self, item: ItemT, key: Any) -> None:
        """Add an item, or change its key."""
        known = self._current.get(item)
        if known is not None and known[0] == key:
            return
        number = self._number = self._number + 1
        entry = self._current[item] = (key, number, item)
        heappush(self._entries, entry)
        if number % _SLACK == 0 and len(self._entries) > 2 * len(self._current) + _SLACK:
            self._entries = list(self._current.values())
            heapify(self._entries)

    def discard(self, item: ItemT) -> None:
        """Remove an item, if it is there."""
        self._current.pop(item, None)

    def first(self) -> tuple[Any, ItemT] | None:
        """The smallest key and its item; None when empty."""
        entries, current = self._entries, self._current
        while entries:
            entry = entries[0]
            if current.get(entry[2]) is entry:
                return entry[0], entry[2]
            heappop(entries)
        return None
