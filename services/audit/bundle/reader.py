"""The entries of a bundle as values, for people to read. Verify the bundle first: nothing is checked here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.audit.bundle.files import RECORDS
from services.audit.proofs.entry import Entry, EntryKind


@dataclass(frozen=True, slots=True)
class BundleRecord:
    """One entry of the log."""

    index: int
    """The entry's place in its log, from 0."""
    kind: EntryKind
    time_ns: int
    """Nanoseconds since the Unix epoch, given by the audit service."""
    record_id: bytes
    """16 bytes."""
    admit_record_id: bytes
    """The record id of the entry this is the outcome of; 16 zero bytes for none."""
    meta: dict[str, Any] | None
    """None here and below: the entry has no such section, or the bundle does not show it."""
    prompt: dict[str, Any] | None
    answer: dict[str, Any] | None


def read_records(folder: Path) -> Iterator[BundleRecord]:
    """Read the entries of a verified bundle, in the order of the log, one line in memory at a time.

    Raises:
        OSError: `records.jsonl` cannot be read.
        ValueError: a line is not a record; KeyError: it lacks a name.
    """
    with (folder / RECORDS).open("rb") as lines:
        for line in lines:
            record = json.loads(line)
            header = Entry.decode(bytes.fromhex(record["entry"])).header
            meta, prompt, answer = (
                record[name]["payload"] if name in record else None for name in ("meta", "prompt", "answer")
            )
            yield BundleRecord(
                header.index,
                header.kind,
                header.time_ns,
                header.record_id,
                header.admit_record_id,
                meta,
                prompt,
                answer,
            )
