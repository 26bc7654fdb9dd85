"""Checks an export bundle offline, with public keys that were pinned before. Needs no service and no secret.

Strict: the signed manifest lists every file, every line is canonical, every entry hashes into the tree whose root the
checkpoint signs, and all content shown is the content that its entry committed to.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
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
from services.audit.bundle.manifest import ListedFile, Manifest, ManifestError
from services.audit.bundle.pinned_keys import PinnedKey, PinnedKeys
from services.audit.bundle.record_check import MAX_LINE_BYTES, RecordCheck
from services.audit.bundle.report import DamageKind, VerificationReport
from services.audit.proofs.merkle import ProofError, finish_range
from services.audit.proofs.signed_note import Checkpoint, NoteError, open_note

_LISTED = (RECORDS, CHECKPOINT, README)
_ALL = (*_LISTED, MANIFEST, SIGNATURE)
_READ_WHOLE = (CHECKPOINT, README, MANIFEST, SIGNATURE)
MAX_FILE_BYTES = 64 << 20
"""Of every file but the records. The largest, a manifest, names each destroyed data key in 35 bytes."""
MAX_FINDINGS = 10_000
"""In records.jsonl, beyond which its lines are read and not checked: a damage takes as little as one byte."""
_LEFTOVERS = frozenset(
    (".DS_Store", ".directory", "Thumbs.db", "desktop.ini", *(f"._{name}" for name in _ALL))
)
"""Files that file managers of macOS, KDE and Windows put into a folder when it is viewed or copied."""


def verify_bundle(directory: Path, keys: PinnedKeys) -> VerificationReport:
    """Check every file of a bundle. Never raises because of its content, and bounds the memory that it takes.

    Raises:
        OSError: a file or the folder cannot be read.
    """
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
            if manifest.counts != check.tally.counts():  # proven: counts
                report.add(DamageKind.CONTRADICTION, MANIFEST, "states other counts than the records have")
    return report


def claimed_origins(directory: Path) -> list[str]:
    """The origins of the log that a bundle claims to be of, to find the pinned keys with. Nothing is checked.

    There are up to two, the checkpoint's and the manifest's, so that damage to one file leaves the other usable.
    """
    found = []
    for name, read in ((CHECKPOINT, _first_line), (MANIFEST, _origin_of)):
        path = directory / name
        try:
            if path.is_file() and not path.is_symlink() and not _is_too_large(path):
                found.append(read(path.read_bytes()))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
    return list(dict.fromkeys(origin for origin in found if origin))


def _first_line(data: bytes) -> str:
    return data.partition(b"\n")[0].decode()


def _origin_of(data: bytes) -> str:
    return str(json.loads(data)["origin"])


def _plain_files(directory: Path, report: VerificationReport) -> dict[str, Path]:
    with os.scandir(directory) as entries:
        present = {entry.name: entry.is_file(follow_symlinks=False) for entry in entries}
    too_large = [name for name in _READ_WHOLE if present.get(name) and _is_too_large(directory / name)]
    for name in sorted(set(present) - set(_ALL)):
        if name in _LEFTOVERS and present[name]:
            report.ignored.append(name)
        else:
            spelled = name.encode("utf-8", "backslashreplace").decode()
            report.add(DamageKind.UNLISTED, spelled, "does not belong to the bundle")
    for name in _ALL:
        if not present.get(name, False):
            report.add(DamageKind.FILE, name, "is missing or not a plain file")
    for name in too_large:
        report.add(DamageKind.FILE, name, f"has more than {MAX_FILE_BYTES} bytes")
    return {name: directory / name for name in _ALL if present.get(name, False) and name not in too_large}


def _is_too_large(path: Path) -> bool:
    return path.lstat().st_size > MAX_FILE_BYTES  # proven: files-read-whole-are-bounded


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
        report.add(DamageKind.FORM, MANIFEST, str(error))
        manifest = None
    try:
        text, pinned = _opened(plain[SIGNATURE].read_bytes(), keys.manifest)
        if text != manifest_note_text(data):  # proven: manifest-is-what-is-signed
            report.add(DamageKind.SIGNATURE, MANIFEST, "is not what manifest.sig signs")
        if manifest is not None:
            # The name in a signature line is not signed, and one key pair signs for every log of a service.
            if pinned.key.name != manifest_key_name(manifest.origin):  # proven: manifest-is-of-the-pinned-log
                report.add(DamageKind.SIGNATURE, MANIFEST, "is of another log than the pinned key")
            pinned.require_size(manifest.size)
    except NoteError as error:
        report.add(DamageKind.SIGNATURE, SIGNATURE, str(error))
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
        report.add(DamageKind.SIGNATURE, CHECKPOINT, str(error))
        return None
    if pinned.key.name != checkpoint.origin:  # proven: checkpoint-is-of-the-pinned-log
        report.add(DamageKind.SIGNATURE, CHECKPOINT, "is of another log than the pinned key")
    return checkpoint


def _records(path: Path, check: RecordCheck, report: VerificationReport) -> ListedFile:
    digest = FileDigest()
    ends_whole = True
    with path.open("rb") as lines:
        while line := lines.readline(MAX_LINE_BYTES + 1):
            digest.update(line)
            ends_whole = line.endswith(b"\n")
            is_too_long = len(line) > MAX_LINE_BYTES and not ends_whole
            if (ends_whole or is_too_long) and len(
                check.wrong
            ) < MAX_FINDINGS:  # proven: findings-are-bounded
                check.line(line[:-1] if ends_whole else line)
            while is_too_long and not ends_whole and (rest := lines.readline(MAX_LINE_BYTES)):
                digest.update(rest)
                ends_whole = rest.endswith(b"\n")
    check.end()
    for what in check.wrong:
        report.add(DamageKind.RECORD, RECORDS, what)
    if len(check.wrong) >= MAX_FINDINGS:
        report.add(
            DamageKind.RECORD, RECORDS, f"is not checked further: {MAX_FINDINGS} damages were found before"
        )
    if not ends_whole:
        report.add(DamageKind.RECORD, RECORDS, "does not end with a whole line")
    return digest.result()


def _listing(manifest: Manifest, found: dict[str, ListedFile], report: VerificationReport) -> None:
    if set(manifest.files) != set(_LISTED):  # proven: all-files-are-listed
        report.add(DamageKind.CONTRADICTION, MANIFEST, "lists other files than a bundle has")
    for name, actual in sorted(found.items()):
        if manifest.files.get(name, actual) != actual:  # proven: files-are-as-listed
            report.add(DamageKind.CHANGED, name, "is not the file the manifest lists")


def _agreement(
    manifest: Manifest, checkpoint: Checkpoint, check: RecordCheck, report: VerificationReport
) -> None:
    stated = (manifest.origin, manifest.size, manifest.root)
    if stated != (
        checkpoint.origin,
        checkpoint.size,
        checkpoint.root,
    ):  # proven: manifest-and-checkpoint-agree
        report.add(DamageKind.CONTRADICTION, MANIFEST, "states another log, size or root than the checkpoint")
    first, end = manifest.first_index, manifest.end_index
    if not (first < end <= manifest.size or first == end == manifest.size == 0):
        report.add(DamageKind.CONTRADICTION, MANIFEST, "states a range that cannot be")
        return
    if len(manifest.proof.left) != first.bit_count():
        report.add(DamageKind.CONTRADICTION, MANIFEST, "proves another range than it states")
        return
    held = check.frontier.size - first
    if held != end - first:  # proven: number-of-entries
        report.add(
            DamageKind.CONTRADICTION, RECORDS, f"holds {held} entries where the manifest says {end - first}"
        )
        return
    try:
        finish_range(check.frontier, checkpoint.size, manifest.proof.right)
    except ProofError:
        report.add(DamageKind.CONTRADICTION, MANIFEST, "proves another range than it states")
        return
    if check.frontier.root() != checkpoint.root:  # proven: root
        report.add(DamageKind.CONTRADICTION, RECORDS, "does not hash to the checkpoint's root")
