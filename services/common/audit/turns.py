"""In which order tenants' entries are sent: in turn, each tenant's own in their order. Pure."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable


class TenantTurns:
    """Sequence numbers that wait, by tenant; the next one is of the tenant whose turn it is."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, deque[int]] = OrderedDict()

    def __bool__(self) -> bool:
        """Whether anything waits."""
        return bool(self._waiting)

    def add(self, tenant_uid: str, sequence: int) -> None:
        """Put a number behind its tenant's others."""
        self._waiting.setdefault(tenant_uid, deque()).append(sequence)

    def add_first(self, tenant_uid: str, sequences: Iterable[int]) -> None:
        """Put numbers before their tenant's others, in this order."""
        self._waiting.setdefault(tenant_uid, deque()).extendleft(reversed(list(sequences)))

    def take(self) -> int:
        """Remove the next number; another tenant's turn is next."""
        tenant_uid, waiting = next(iter(self._waiting.items()))
        sequence = waiting.popleft()
        if waiting:
            self._waiting.move_to_end(tenant_uid)  # proven: entries-in-turn
        else:
            del self._waiting[tenant_uid]
        return sequence

    def clear(self) -> None:
        """Let nothing wait."""
        self._waiting.clear()
