"""Checks an export bundle offline, with public keys pinned beforehand. Needs no service and no secret.

Strict: every file is in the signed manifest, every line is spelled canonically, every entry hashes into the tree
whose root the checkpoint signs, and all content shown is what its entry committed to.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from services.audit.bundle.files import (
    CHECKPOINT,
    MANIFEST,
    README,
    RECORDS,
    SIGNATURE,
    FileDigest,
    listed_file,
    manifest_key_name,
    manifest_note_text,
)
from services.audit.bundle.manifest import SECTION_NAMES, ListedFile, Manifest, ManifestError, Window
from services.audit.bundle.pinned_keys import PinnedKey, PinnedKeys
from services.audit.bundle.record_check import RecordCheck
from services.audit.proofs.merkle import ProofError, finish_range
from services.audit.proofs.signed_note import Checkpoint, NoteError, open_note

__all__ = ["Damage", "PinnedKeys", "VerificationReport", "verify_bundle"]

_LISTED = (RECORDS, CHECKPOINT, README)
_ALL = (*_LISTED, MANIFEST, SIGNATURE)


@dataclass(frozen=True, slots=True)
class Damage:
    """One thing that is wrong."""

    file: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


@dataclass(slots=True)
class VerificationReport:
    """What a verification found; good when there is no damage.

    A good bundle may hold a part of a log and show a part of its content: the last five fields say which.
    """

    origin: str = ""
    tenant_uid: str = ""
    size: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    damages: list[Damage] = field(default_factory=list)
    first_index: int = 0
    end_index: int = 0
    window: Window = field(default_factory=Window)
    sections: tuple[str, ...] = SECTION_NAMES
    shredded: tuple[bytes, ...] = ()
    """dek_ids of what can be read by nobody any more: the service's word."""

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not self.damages

    def add(self, file: str, what: str) -> None:
        """Name a damage."""
        self.damages.append(Damage(file, what))


def verify_bundle(directory: Path, keys: PinnedKeys) -> VerificationReport:
    """Check every file of a bundle; never raises for what is inside it."""
    report = VerificationReport()
    plain = _plain_files(directory, report)
    manifest = _manifest(plain, keys, report)
    checkpoint = _checkpoint(plain, keys, report)
    origin = checkpoint.origin if checkpoint is not None else manifest.origin if manifest is not None else ""
    check = RecordCheck(manifest, origin.rpartition("/")[2])
    found = {name: listed_file(path.read_bytes()) for name, path in plain.items() if name in _LISTED[1:]}
    if RECORDS in plain:
        found[RECORDS] = _records(plain[RECORDS], check, report)
    if manifest is not None:
        _listing(manifest, found, report)
        if checkpoint is not None:
            _agreement(manifest, checkpoint, check, report)
    return report


def _plain_files(directory: Path, report: VerificationReport) -> dict[str, Path]:
    with os.scandir(directory) as entries:
        present = {entry.name: entry.is_file(follow_symlinks=False) for entry in entries}
    for name in sorted(set(present) - set(_ALL)):
        report.add(name, "does not belong to the bundle")
    for name in _ALL:
        if not present.get(name, False):
            report.add(name, "is missing or not a plain file")
    return {name: directory / name for name in _ALL if present.get(name, False)}


def _opened(note: bytes, keys: Iterable[PinnedKey]) -> tuple[str, PinnedKey]:
    problem = NoteError("no key is pinned for it")
    for pinned in keys:
        try:
            return open_note(note, pinned.key), pinned
        except NoteError as error:
            problem = error
    raise problem


def _manifest(plain: dict[str, Path], keys: PinnedKeys, report: VerificationReport) -> Manifest | None:
    if MANIFEST not in plain or SIGNATURE not in plain:
        return None
    data = plain[MANIFEST].read_bytes()
    try:
        manifest: Manifest | None = Manifest.parse(data)
    except ManifestError as error:
        report.add(MANIFEST, str(error))
        manifest = None
    try:
        text, pinned = _opened(plain[SIGNATURE].read_bytes(), keys.manifest)
        if text != manifest_note_text(data):
            report.add(MANIFEST, "is not what manifest.sig signs")
        if manifest is not None:
            # The name in a signature line is not signed, and one key pair signs for all logs of a service.
            if pinned.key.name != manifest_key_name(manifest.origin):
                report.add(MANIFEST, "is of another log than the pinned key")
            pinned.require_size(manifest.size)
    except NoteError as error:
        report.add(SIGNATURE, str(error))
    if manifest is not None:
        report.origin, report.tenant_uid, report.size = manifest.origin, manifest.tenant_uid, manifest.size
        report.counts, report.window = manifest.counts, manifest.window
        report.sections, report.shredded = manifest.sections, manifest.shredded
        report.first_index, report.end_index = manifest.first_index, manifest.end_index
    return manifest


def _checkpoint(plain: dict[str, Path], keys: PinnedKeys, report: VerificationReport) -> Checkpoint | None:
    if CHECKPOINT not in plain:
        return None
    try:
        text, pinned = _opened(plain[CHECKPOINT].read_bytes(), keys.log)
        checkpoint = Checkpoint.parse(text)
        pinned.require_size(checkpoint.size)
    except NoteError as error:
        report.add(CHECKPOINT, str(error))
        return None
    if pinned.key.name != checkpoint.origin:
        report.add(CHECKPOINT, "is of another log than the pinned key")
    return checkpoint


def _records(path: Path, check: RecordCheck, report: VerificationReport) -> ListedFile:
    digest = FileDigest()
    with path.open("rb") as lines:
        for line in lines:
            digest.update(line)
            if line.endswith(b"\n"):
                check.line(line[:-1])
            else:
                report.add(RECORDS, "does not end with a whole line")
    check.end()
    for what in check.wrong:
        report.add(RECORDS, what)
    return digest.result()


def _listing(manifest: Manifest, found: dict[str, ListedFile], report: VerificationReport) -> None:
    if set(manifest.files) != set(_LISTED):
        report.add(MANIFEST, "lists other files than a bundle has")
    for name, actual in sorted(found.items()):
        if manifest.files.get(name, actual) != actual:
            report.add(name, "is not the file the manifest lists")


def _agreement(
    manifest: Manifest, checkpoint: Checkpoint, check: RecordCheck, report: VerificationReport
) -> None:
    stated = (manifest.origin, manifest.size, manifest.root)
    if stated != (checkpoint.origin, checkpoint.size, checkpoint.root):
        report.add(MANIFEST, "states another log, size or root than the checkpoint")
    if manifest.counts != check.tally.counts():
        report.add(MANIFEST, "states other counts than the records have")
    first, end = manifest.first_index, manifest.end_index
    if not (first < end <= manifest.size or first == end == manifest.size == 0):
        report.add(MANIFEST, "states a range that cannot be")
        return
    if len(manifest.proof.left) != first.bit_count():
        report.add(MANIFEST, "proves another range than it states")
        return
    held = check.frontier.size - first
    if held != end - first:
        report.add(RECORDS, f"holds {held} entries where the manifest says {end - first}")
        return
    try:
        finish_range(check.frontier, checkpoint.size, manifest.proof.right)
    except ProofError:
        report.add(MANIFEST, "proves another range than it states")
        return
    if check.frontier.root() != checkpoint.root:
        report.add(RECORDS, "does not hash to the checkpoint's root")
