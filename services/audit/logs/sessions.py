"""Writers' sessions: which sequences are settled, and which records were refused. Pure.

Tenants take turns, so the entries of a writer do not become durable in its own order. So the settled sequences are not
one number but all up to one sequence, and ranges after it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from services.audit.storage.frames import SessionMark

MAX_RANGES = 16_384
"""The most ranges of a session. A writer that leaves more holes than entries it can have under way counts wrongly."""
MAX_REFUSED = 4096


class SettledSequences:
    """A set of sequences that mostly grows at its lower end. Its size in memory is that of its holes."""

    def __init__(self, through: int = 0, ranges: Iterable[Sequence[int]] = ()) -> None:
        self.through = through
        """Every sequence up to this one is settled."""
        self._ranges = [(first, last) for first, last in ranges]
        """Ranges after `through`: sorted, not adjacent to each other or to `through`."""

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """The settled ranges after `through`: first and last sequence of each."""
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
    """One session of a writer, over all its streams."""

    def __init__(self, session_id: bytes, settled: SettledSequences | None = None) -> None:
        self.session_id = session_id
        self.settled = settled or SettledSequences()
        """Sequences whose entries are durable or were refused for good."""
        self.writer = ""
        """The writer's name; empty before its first hello."""
        self._refused: OrderedDict[bytes, bool] = OrderedDict()
        """Refused record ids, and whether the writer will send them again."""

    @classmethod
    def of(cls, mark: SessionMark) -> WriterSession:
        """The session as the journal recorded it."""
        return cls(mark.session_id, SettledSequences(mark.sequence, mark.ranges))

    @property
    def durable_sequence(self) -> int:
        """Every sequence up to this one is settled."""
        return self.settled.through

    def mark(self, also: Iterable[int] = ()) -> SessionMark:
        """The record for the journal, as if the sequences `also` were settled too."""
        settled = self.settled.copy()
        for sequence in also:
            settled.add(sequence)
        return SessionMark(self.session_id, settled.through, settled.ranges)

    def refuse(self, record_id: bytes, *, for_now: bool) -> None:
        """Take note of a refused record: an outcome that names it as its admit must not be in the log before it."""
        self._refused[record_id] = for_now
        if len(self._refused) > MAX_REFUSED:
            self._refused.popitem(last=False)

    def take(self, record_id: bytes) -> None:
        """Take note of an accepted record, which may have been refused before."""
        self._refused.pop(record_id, None)

    def refused_for_now(self, record_id: bytes) -> bool | None:
        """Whether a refused record will be sent again; None when it was not refused, or was accepted since."""
        return self._refused.get(record_id)
