"""Counts the entries of a log, and pairs admits with their outcomes. docs/formats/audit-bundle.md, "Counts"."""

from __future__ import annotations

from collections import Counter

from services.audit.proofs.entry import EntryKind, Header


class Tally:
    """Counts entries one by one. Holds the record ids of the open admits, and nothing else of the entries.

    `open` counts admits without a later outcome, `unmatched` counts outcomes without an open admit before them. So
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
        """Whether outcomes lack their admits although no gap entry accounts for dropped entries."""
        return self._unmatched > 0 and not self._kinds["gap"]

    def counts(self) -> dict[str, int]:
        """The number of entries of each kind, `open` and `unmatched`."""
        return {**dict(sorted(self._kinds.items())), "open": len(self._open), "unmatched": self._unmatched}
