"""Counts the entries of a log, and pairs admits with their outcomes. docs/formats/audit-bundle.md, "Counts"."""

from __future__ import annotations

from collections import Counter

from services.audit.proofs.entry import EntryKind, Header


class Tally:
    """Counts entries as they go by; holds no more than the admits that are open.

    `open` are admits without an outcome behind them, `unmatched` outcomes without an open admit before them. So
    admit + unmatched = outcome + outcome_unknown + open, always.
    """

    def __init__(self) -> None:
        self._kinds: Counter[str] = Counter()
        self._open: set[bytes] = set()
        self._unmatched = 0

    def push(self, header: Header) -> None:
        """Count one entry."""
        self._kinds[header.kind.name.lower()] += 1
        if header.kind is EntryKind.ADMIT:
            self._open.add(header.record_id)
        elif header.kind in (EntryKind.OUTCOME, EntryKind.OUTCOME_UNKNOWN):
            if header.admit_record_id in self._open:
                self._open.remove(header.admit_record_id)
            else:
                self._unmatched += 1

    @property
    def unexplained(self) -> bool:
        """Whether outcomes lack their admits though no gap tells of entries that were dropped."""
        return self._unmatched > 0 and not self._kinds["gap"]

    def counts(self) -> dict[str, int]:
        """How many entries there are of each kind, `open` and `unmatched`."""
        return {**dict(sorted(self._kinds.items())), "open": len(self._open), "unmatched": self._unmatched}
