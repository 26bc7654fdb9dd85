"""Checks an export bundle offline, with public keys pinned beforehand. Needs no service and no secret.

Strict: every file is in the signed manifest, every line is spelled canonically, every entry hashes into the tree
whose root the checkpoint signs, and all content shown is what its entry committed to.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rfc8785

from services.audit import bundle
from services.audit.entry import ABSENT_COMMITMENT, Entry, EntryFormatError, EntryKind
from services.audit.envelope import Section
from services.audit.merkle import Frontier, leaf_hash
from services.audit.signed_note import Checkpoint, NoteError, VerifierKey, open_note


@dataclass(frozen=True, slots=True)
class PinnedKeys:
    """The public keys a verifier kept from before; one bundle's keys never verify another's."""

    log: tuple[VerifierKey, ...]
    manifest: tuple[VerifierKey, ...]

    @classmethod
    def parse(cls, log_keys: Iterable[str], manifest_keys: Iterable[str]) -> PinnedKeys:
        """Parse keys in the C2SP text form.

        Raises:
            NoteError: one of them is not a verifier key.
        """
        return cls(
            tuple(VerifierKey.parse(key) for key in log_keys),
            tuple(VerifierKey.parse(key) for key in manifest_keys),
        )


@dataclass(frozen=True, slots=True)
class Damage:
    """One thing that is wrong."""

    file: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


@dataclass(slots=True)
class VerificationReport:
    """What a verification found; good when there is no damage."""

    origin: str = ""
    tenant_uid: str = ""
    size: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    damages: list[Damage] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not self.damages


def verify_bundle(directory: Path, keys: PinnedKeys) -> VerificationReport:
    """Check every file of a bundle; never raises for what is inside it."""
    report = VerificationReport()
    manifest = _manifest(directory, keys, report)
    _files(directory, manifest, report)
    checkpoint = _checkpoint(directory, keys, report)
    visible = _window(manifest, report)
    entries = _records(directory, report, visible)
    if manifest is not None and checkpoint is not None:
        _agreement(manifest, checkpoint, entries, report)
    return report


def _read(directory: Path, name: str, report: VerificationReport) -> bytes | None:
    path = directory / name
    if path.is_symlink() or not path.is_file():
        report.damages.append(Damage(name, "is missing or not a plain file"))
        return None
    return path.read_bytes()


def _opened(note: bytes, keys: Iterable[VerifierKey]) -> str:
    problem = NoteError("no key is pinned for it")
    for key in keys:
        try:
            return open_note(note, key)
        except NoteError as error:
            problem = error
    raise problem


def _manifest(directory: Path, keys: PinnedKeys, report: VerificationReport) -> dict[str, Any] | None:
    data = _read(directory, bundle.MANIFEST, report)
    signature = _read(directory, bundle.SIGNATURE, report)
    if data is None or signature is None:
        return None
    try:
        text = _opened(signature, keys.manifest)
    except NoteError as error:
        report.damages.append(Damage(bundle.SIGNATURE, str(error)))
        text = None
    if text is not None and text != bundle.manifest_note_text(data):
        report.damages.append(Damage(bundle.MANIFEST, "is not what manifest.sig signs"))
    try:
        manifest = json.loads(data)
        canonical = rfc8785.dumps(manifest) + b"\n" == data
        report.origin, report.tenant_uid = manifest["origin"], manifest["tenant_uid"]
        report.size, report.counts = manifest["size"], manifest["counts"]
        canonical = canonical and set(manifest) == bundle.MANIFEST_NAMES
    except (ValueError, KeyError, TypeError, RecursionError, rfc8785.CanonicalizationError):
        canonical = False
    if not canonical or manifest["format"] != bundle.MANIFEST_FORMAT:
        report.damages.append(Damage(bundle.MANIFEST, "is not a canonical manifest of this format"))
        return None
    return dict(manifest)


def _files(directory: Path, manifest: dict[str, Any] | None, report: VerificationReport) -> None:
    expected = {bundle.RECORDS, bundle.CHECKPOINT, bundle.README}
    present = {str(path.relative_to(directory)) for path in directory.rglob("*") if not path.is_dir()}
    for name in sorted(present - expected - {bundle.MANIFEST, bundle.SIGNATURE}):
        report.damages.append(Damage(name, "does not belong to the bundle"))
    if manifest is None:
        return
    listed = manifest["files"]
    if not isinstance(listed, dict) or set(listed) != expected:
        report.damages.append(Damage(bundle.MANIFEST, "lists other files than a bundle has"))
        return
    for name in sorted(expected):
        data = _read(directory, name, report)
        if data is not None and listed[name] != {
            "sha256": hashlib.sha256(data).hexdigest(),
            "bytes": len(data),
        }:
            report.damages.append(Damage(name, "is not the file the manifest lists"))


def _checkpoint(directory: Path, keys: PinnedKeys, report: VerificationReport) -> Checkpoint | None:
    note = _read(directory, bundle.CHECKPOINT, report)
    if note is None:
        return None
    try:
        return Checkpoint.parse(_opened(note, keys.log))
    except NoteError as error:
        report.damages.append(Damage(bundle.CHECKPOINT, str(error)))
        return None


def _window(manifest: dict[str, Any] | None, report: VerificationReport) -> Callable[[int], bool] | None:
    """Which times' content the bundle has to show; None where the manifest does not say."""
    if manifest is None:
        return None
    filters = manifest["filters"]
    try:
        bounds = {name: int(value) for name, value in filters.items()}
        canonical = {name: str(value) for name, value in bounds.items()} == filters
    except (AttributeError, TypeError, ValueError):
        canonical = False
    if not canonical or not set(bounds) <= {"start_ns", "end_ns"}:
        report.damages.append(Damage(bundle.MANIFEST, "states filters that are unknown"))
        return None
    start_ns, end_ns = bounds.get("start_ns"), bounds.get("end_ns")
    return lambda time_ns: (start_ns is None or time_ns >= start_ns) and (end_ns is None or time_ns < end_ns)


def _records(
    directory: Path, report: VerificationReport, visible: Callable[[int], bool] | None
) -> list[Entry]:
    data = _read(directory, bundle.RECORDS, report)
    entries: list[Entry] = []
    if data is None:
        return entries
    if data and not data.endswith(b"\n"):
        report.damages.append(Damage(bundle.RECORDS, "does not end with a whole line"))
    for number, line in enumerate(data.split(b"\n")[:-1]):
        try:
            entries.append(_record(number, line, visible))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            what = str(error) if isinstance(error, EntryFormatError) else "is not a canonical record"
            report.damages.append(Damage(bundle.RECORDS, f"line {number + 1} {what}"))
    return entries


def _record(number: int, line: bytes, visible: Callable[[int], bool] | None) -> Entry:
    record = json.loads(line)
    try:
        canonical = rfc8785.dumps(record)
    except rfc8785.CanonicalizationError:
        raise EntryFormatError("is not canonical JSON") from None
    if canonical != line or not set(record) <= {"entry", "index", "kind", "time_ns", *bundle.SECTION_NAMES}:
        raise EntryFormatError("is not canonical JSON of the known names")
    entry = Entry.decode(_bytes(record["entry"]))
    header = entry.header
    if (record["index"], record["kind"], record["time_ns"]) != (
        header.index,
        header.kind.name.lower(),
        str(header.time_ns),
    ):
        raise EntryFormatError("shows another index, kind or time than its entry")
    if header.index != number:
        raise EntryFormatError(f"holds entry {header.index}: entries are missing, added or moved")
    _sections(record, entry, visible)
    return entry


def _sections(record: dict[str, Any], entry: Entry, visible: Callable[[int], bool] | None) -> None:
    in_window = visible is not None and visible(entry.header.time_ns)
    has_sections = entry.header.kind is not EntryKind.DEK_OPEN
    for name, commitment in zip(bundle.SECTION_NAMES, entry.commitments, strict=True):
        if name not in record:
            if in_window and has_sections and commitment != ABSENT_COMMITMENT:
                raise EntryFormatError(f"leaves out its {name}, though its time was asked for")
            continue
        section = Section(rfc8785.dumps(record[name]["payload"]), _bytes(record[name]["salt"]))
        if set(record[name]) != {"payload", "salt"} or commitment == ABSENT_COMMITMENT or not has_sections:
            raise EntryFormatError(f"shows a {name} the entry does not have")
        if section.commitment() != commitment:
            raise EntryFormatError(f"shows another {name} than the entry committed to")


def _bytes(text: str) -> bytes:
    """Bytes of lowercase hex; `bytes.fromhex` alone takes spaces and capitals too."""
    data = bytes.fromhex(text)
    if data.hex() != text:
        raise EntryFormatError("is not spelled in lowercase hex")
    return data


def _agreement(
    manifest: dict[str, Any], checkpoint: Checkpoint, entries: list[Entry], report: VerificationReport
) -> None:
    frontier = Frontier()
    last_time_ns = 0
    for entry in entries:
        frontier.push(leaf_hash(entry.encode()))
        header = entry.header
        if not checkpoint.origin.endswith("/" + header.log_id.hex()):
            report.damages.append(Damage(bundle.RECORDS, f"entry {header.index} belongs to another log"))
        if header.time_ns < last_time_ns:
            report.damages.append(Damage(bundle.RECORDS, f"entry {header.index} goes back in time"))
        last_time_ns = header.time_ns
    if frontier.size != checkpoint.size:
        what = f"holds {frontier.size} entries where the checkpoint covers {checkpoint.size}"
        report.damages.append(Damage(bundle.RECORDS, what))
    elif frontier.root() != checkpoint.root:
        report.damages.append(Damage(bundle.RECORDS, "does not hash to the checkpoint's root"))
    stated = (manifest.get("origin"), manifest.get("size"), manifest.get("root"), manifest.get("first_index"))
    if stated != (checkpoint.origin, checkpoint.size, checkpoint.root.hex(), 0):
        report.damages.append(Damage(bundle.MANIFEST, "states another log, size or root than the checkpoint"))
    if manifest.get("counts") != bundle.counts(entries):
        report.damages.append(Damage(bundle.MANIFEST, "states other counts than the records have"))
