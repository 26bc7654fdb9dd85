"""Checks records.jsonl line by line: each is canonical, shows exactly what it has to, and follows the one before.

Memory holds the edge of the tree, the record ids met so far, and one line.
"""

from __future__ import annotations

import json
from typing import Any

import rfc8785

from services.audit.bundle.counts import Tally
from services.audit.bundle.manifest import SECTION_NAMES, Manifest
from services.audit.keys.envelope import Section
from services.audit.proofs.entry import (
    ABSENT_COMMITMENT,
    Entry,
    EntryFormatError,
    EntryKind,
    Header,
    name_digest,
)
from services.audit.proofs.merkle import Frontier, leaf_hash
from services.common.canonical_json import canonical_json

_NAMES = frozenset(["entry", "index", "kind", "time_ns", *SECTION_NAMES])
MAX_LINE_BYTES = 8 << 20
"""More than twice what the service takes: 64 KiB of meta, and 1 MiB each of prompt and answer."""
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


class RecordCheck:
    """Checks the lines of one bundle and collects the damages.

    Args:
        manifest: the bundle's manifest. Without one, lines are read, and no content is demanded or refused.
        log_id: id of the log whose checkpoint the bundle has, in hex; empty if it is unknown.
    """

    def __init__(self, manifest: Manifest | None, log_id: str) -> None:
        self._manifest = manifest
        self._log_id = log_id
        self._first_index = manifest.first_index if manifest else 0
        self.tally = Tally()
        self.frontier = _frontier_before(manifest)
        """The edge of the tree after the last line. It begins with the left hashes of the manifest's proof."""
        self.wrong: list[str] = []
        self.lines = 0
        self._first_time_ns: int | None = None
        self._last_time_ns = 0
        self._next_index = self._first_index
        self._record_ids: set[bytes] = set()
        self._key: tuple[bytes, int] | None = None
        """Data key and counter of the last entry; None if that is unknown."""

    def line(self, line: bytes) -> None:
        """Check the next line, given without its newline.

        If the entry of a damaged line can be read, it is counted like any other. So one damage is not reported again by
        every later check.
        """
        self.lines += 1
        try:
            if len(line) > MAX_LINE_BYTES:
                raise EntryFormatError(f"is longer than {MAX_LINE_BYTES} bytes")
            record = json.loads(line)
            entry = Entry.decode(_bytes(record["entry"]))
        except _UNREADABLE as error:
            self._name(error)
            self._next_index += 1
            self._key = None
            return
        try:
            _check_spelling(record, line)
            _check_clear(record, entry.header)
            self._check_sections(record, entry)
        except _UNREADABLE as error:
            self._name(error)
        self._check_index(entry.header.index)
        self._follow(entry)

    def _name(self, error: Exception) -> None:
        what = str(error) if isinstance(error, EntryFormatError) else "is not a canonical record"
        self.wrong.append(f"line {self.lines} {what}")

    def end(self) -> None:
        """Check what only all lines show: no admit is missing, and a part includes the window's neighbours."""
        manifest = self._manifest
        # A gap entry accounts for the whole log, and the entries before a part are unknown.
        if self._first_index == 0 and self.tally.unexplained:  # proven: admit-before-outcome
            self.wrong.append("holds an outcome without its admit before it, and no gap accounts for one")
        if manifest is None or self._first_time_ns is None:
            return
        begins = manifest.window.begins_after(self._first_time_ns)
        if manifest.first_index > 0 and not begins:  # proven: neighbour-before
            self.wrong.append("does not begin with an entry from before the window")
        ended = manifest.window.ended_by(self._last_time_ns)
        if manifest.end_index < manifest.size and not ended:  # proven: neighbour-after
            self.wrong.append("does not end with an entry from after the window")

    def _check_index(self, index: int) -> None:
        if index != self._next_index:  # proven: no-entry-is-missing
            self.wrong.append(f"line {self.lines} holds entry {index}: entries are missing, added or moved")
            # The entry that this one has to follow is not here.
            self._key = None
        self._next_index = index + 1

    def _check_sections(self, record: dict[str, Any], entry: Entry) -> None:
        header = entry.header
        for name, commitment in zip(SECTION_NAMES, entry.commitments, strict=True):
            has = commitment != ABSENT_COMMITMENT and header.kind is not EntryKind.DEK_OPEN
            due = has and (
                self._manifest is None or self._manifest.shows(name, header.time_ns, header.dek_id)
            )
            if name not in record:
                if due and self._manifest is not None:  # proven: nothing-is-left-out
                    raise EntryFormatError(f"leaves out its {name}, though the manifest says it is shown")
                continue
            if set(record[name]) != {"payload", "salt"} or not has:
                raise EntryFormatError(f"shows a {name} the entry does not have")
            if not due:  # proven: nothing-hidden-is-shown
                raise EntryFormatError(f"shows its {name}, though the manifest says it is not shown")
            section = Section(canonical_json(record[name]["payload"]), _bytes(record[name]["salt"]))
            if section.commitment() != commitment:  # proven: content-is-committed-to
                raise EntryFormatError(f"shows another {name} than the entry committed to")

    def _follow(self, entry: Entry) -> None:
        header = entry.header
        self.frontier.push(leaf_hash(entry.encode()))
        self.tally.push(header)
        for what in self._out_of_place(header):
            self.wrong.append(f"entry {header.index} {what}")
        self._record_ids.add(header.record_id)
        self._key = (header.dek_id, header.counter)
        self._last_time_ns = max(self._last_time_ns, header.time_ns)
        if self._first_time_ns is None:
            self._first_time_ns = header.time_ns

    def _out_of_place(self, header: Header) -> list[str]:
        found = []
        if self._log_id and header.log_id.hex() != self._log_id:  # proven: one-log
            found.append("belongs to another log")
        if header.time_ns < self._last_time_ns:  # proven: times-never-go-back
            found.append("goes back in time")
        if header.record_id in self._record_ids:  # proven: record-ids-are-unique
            found.append("has the record id of one before it")
        if not self._follows_its_key(header):  # proven: counters-follow
            found.append("does not follow the one before it under its data key")
        if (header.kind is EntryKind.LOG_OPENED) is not (header.index == 1):  # proven: opened-once
            found.append("opens the log where it must not, or does not where it must")
        elif header.index == 1 and not self._is_the_tenants(header):  # proven: opened-for-the-tenant
            found.append("opens the log of another tenant")
        return found

    def _is_the_tenants(self, header: Header) -> bool:
        return self._manifest is None or header.key_digest == name_digest(self._manifest.tenant_uid)

    def _follows_its_key(self, header: Header) -> bool:
        if header.kind is EntryKind.DEK_OPEN:
            return header.counter == 0 and header.record_id == header.dek_id
        if self._key is None:
            return header.index > 0
        return (header.dek_id, header.counter) == (self._key[0], self._key[1] + 1)


def _check_spelling(record: dict[str, Any], line: bytes) -> None:
    try:
        canonical = canonical_json(record)
    except rfc8785.CanonicalizationError:
        raise EntryFormatError("is not canonical JSON") from None
    if canonical != line or not set(record) <= _NAMES:  # proven: one-spelling
        raise EntryFormatError("is not canonical JSON of the known names")


def _check_clear(record: dict[str, Any], header: Header) -> None:
    shown = (record["index"], record["kind"], record["time_ns"])
    # A bool is an int to Python, and 1 to a comparison.
    is_number = type(record["index"]) is int  # proven: true-is-no-index
    if not is_number or shown != (header.index, header.kind.name.lower(), str(header.time_ns)):
        raise EntryFormatError("shows another index, kind or time than its entry")


def _frontier_before(manifest: Manifest | None) -> Frontier:
    if manifest is None:
        return Frontier()
    try:
        return Frontier(manifest.first_index, manifest.proof.left)
    except ValueError:
        # The proof has a wrong number of hashes, which the verifier reports. The root will be wrong as well.
        return Frontier()


def _bytes(text: str) -> bytes:
    """Decode lowercase hex. `bytes.fromhex` alone accepts spaces and capitals as well."""
    data = bytes.fromhex(text)
    if data.hex() != text:
        raise EntryFormatError("is not spelled in lowercase hex")
    return data
