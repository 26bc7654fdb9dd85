"""The operator log as people read it: every edit with its outcome, chosen by operator, call, resource and time.

An edit is two or more entries: its intent, recorded before the change, and outcomes. `written` counts wherever it
stands among them, since the watch and the write record their outcomes apart; without it the last one counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from services.audit.bundle.reader import BundleRecord
from services.audit.proofs.entry import EntryKind

OPEN = "open"
"""The outcome of an edit that has none yet."""
WRITTEN = "written"
_NAMED = ("method", "resource", "operator", "role")


@dataclass(frozen=True, slots=True)
class Edit:
    """One edit, as its intent describes it."""

    index: int
    """The intent's place in the log."""
    time_ns: int
    """When the intent was recorded, in nanoseconds since the Unix epoch."""
    operator: str
    role: str
    method: str
    """The call of `ConfigAdminService`."""
    resource: str
    """The resource that was edited; of a new key, the key."""
    reason: str
    outcome: str = OPEN
    """`written`, `refused`, `unknown` or `open`."""
    revision: int = 0
    """The revision that made it, 0 if none did."""
    details: dict[str, Any] = field(default_factory=dict)
    """Numbers and digests of the change."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Entries that a writer had to drop before they were durable."""

    index: int
    time_ns: int
    dropped: int
    writer: str


@dataclass(frozen=True, slots=True)
class EditFilter:
    """A choice of edits; an empty or missing part lets all through."""

    operator: str = ""
    method: str = ""
    """In any case of letters."""
    resource: str = ""
    """A full name, which includes what is under it; or one part of a name, for example a tenant or a key id."""
    since_ns: int | None = None
    until_ns: int | None = None
    """Exclusive."""

    def lets_through(self, edit: Edit) -> bool:
        """Whether every part of the filter fits."""
        return (
            self.operator in ("", edit.operator)
            and self.method.lower() in ("", edit.method.lower())
            and self._fits(edit.resource)
            and (self.since_ns is None or edit.time_ns >= self.since_ns)
            and (self.until_ns is None or edit.time_ns < self.until_ns)
        )

    def _fits(self, resource: str) -> bool:
        if "/" in self.resource:
            return f"{resource}/".startswith(f"{self.resource.rstrip('/')}/")
        return not self.resource or self.resource in resource.split("/")


def read_edits(records: Iterable[BundleRecord]) -> list[Edit | Gap]:
    """Every edit and every gap of an operator log, in the log's order."""
    found: dict[bytes, Edit | Gap] = {}
    for record in records:
        meta = record.meta or {}
        if record.kind is EntryKind.ADMIN_INTENT:
            found[record.record_id] = _intended(record, meta)
        elif record.kind is EntryKind.ADMIN_OUTCOME:
            edit = found.get(record.admit_record_id)
            outcome = str(meta.get("outcome", ""))
            if isinstance(edit, Edit):
                if edit.outcome == WRITTEN != outcome:  # proven: written-counts
                    continue
                found[record.admit_record_id] = replace(
                    edit, outcome=outcome, revision=int(meta.get("revision", 0))
                )
        elif record.kind is EntryKind.GAP:
            dropped, writer = int(meta.get("dropped", 0)), str(meta.get("writer", ""))
            found[record.record_id] = Gap(record.index, record.time_ns, dropped, writer)
    return list(found.values())


def chosen(edits: Iterable[Edit | Gap], wanted: EditFilter) -> Iterator[Edit | Gap]:
    """The edits a filter lets through, and every gap: a dropped entry may have been one of them."""
    return (edit for edit in edits if isinstance(edit, Gap) or wanted.lets_through(edit))


def _intended(record: BundleRecord, meta: dict[str, Any]) -> Edit:
    details = {name: value for name, value in meta.items() if name not in _NAMED}
    resource = str(meta.get("resource", ""))
    if meta.get("method") == "CreateKey" and "key_id" in details:
        resource += f"/keys/{details['key_id']}"
    return Edit(
        index=record.index,
        time_ns=record.time_ns,
        operator=str(meta.get("operator", "")),
        role=str(meta.get("role", "")),
        method=str(meta.get("method", "")),
        resource=resource,
        reason=str((record.prompt or {}).get("reason", "")),
        details=details,
    )
