"""Writers' sessions: which of their sequences are settled, and what later entries may not build on.

Tenants take turns, so a writer's entries do not become durable in its own order. What is settled is therefore not one
number: it is everything up to a sequence, and ranges beyond it. Pure.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from services.audit.storage.frames import SessionMark

MAX_RANGES = 16_384
"""A writer that leaves more holes than it can have entries under way numbers them wrongly."""
MAX_REFUSED = 4096


class SettledSequences:
    """A set of sequences that mostly grows at its lower end; costs what its holes cost."""

    def __init__(self, through: int = 0, ranges: Iterable[Sequence[int]] = ()) -> None:
        self.through = through
        """Every sequence up to this one is settled."""
        self._ranges = [(first, last) for first, last in ranges]
        """Beyond it: sorted, apart from each other and from `through`."""

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """What is settled beyond `through`: first and last of each range."""
        return tuple(self._ranges)

    def __contains__(self, sequence: int) -> bool:
        """Whether a sequence is settled."""
        place = bisect_right(self._ranges, (sequence, 1 << 64)) - 1
        return sequence <= self.through or (place >= 0 and sequence <= self._ranges[place][1])

    def add(self, sequence: int) -> None:
        """Count a sequence as settled."""
        if sequence in self:
            return
        place = bisect_right(self._ranges, (sequence, sequence))
        first = last = sequence
        if place < len(self._ranges) and self._ranges[place][0] == sequence + 1:
            last = self._ranges.pop(place)[1]
        if place and self._ranges[place - 1][1] == sequence - 1:
            first = self._ranges.pop(place - 1)[0]
            place -= 1
        self._ranges.insert(place, (first, last))
        self._join()

    def add_below(self, sequence: int) -> None:
        """Count every sequence below one as settled."""
        self.through = max(self.through, sequence - 1)
        self._join()

    def copy(self) -> SettledSequences:
        """Another set with the same sequences."""
        return SettledSequences(self.through, self._ranges)

    def _join(self) -> None:
        while self._ranges and self._ranges[0][0] <= self.through + 1:
            self.through = max(self.through, self._ranges.pop(0)[1])


class WriterSession:
    """One writer's session, over all its streams."""

    def __init__(self, session_id: bytes, settled: SettledSequences | None = None) -> None:
        self.session_id = session_id
        self.settled = settled or SettledSequences()
        """Durable, or refused for good."""
        self.writer = ""
        """The writer's name, once it has said it."""
        self._refused: OrderedDict[bytes, bool] = OrderedDict()
        """Record ids; whether they will come again."""

    @classmethod
    def of(cls, mark: SessionMark) -> WriterSession:
        """As the journal recorded it."""
        return cls(mark.session_id, SettledSequences(mark.sequence, mark.ranges))

    @property
    def durable_sequence(self) -> int:
        """Everything up to it is settled."""
        return self.settled.through

    def mark(self, also: Iterable[int] = ()) -> SessionMark:
        """What the journal records once the sequences `also` are settled too."""
        settled = self.settled.copy()
        for sequence in also:
            settled.add(sequence)
        return SessionMark(self.session_id, settled.through, settled.ranges)

    def refuse(self, record_id: bytes, *, for_now: bool) -> None:
        """A record was not taken: what names it as its admit must not be in the log before it."""
        self._refused[record_id] = for_now
        if len(self._refused) > MAX_REFUSED:
            self._refused.popitem(last=False)

    def take(self, record_id: bytes) -> None:
        """A record was taken, perhaps after it had been refused."""
        self._refused.pop(record_id, None)

    def refused_for_now(self, record_id: bytes) -> bool | None:
        """Whether a record that was refused will come again; None when it was not refused, or was taken since."""
        return self._refused.get(record_id)
