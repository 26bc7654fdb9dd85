"""Writes one bundle, piece by piece. Memory holds one entry at a time and the record ids of open admits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from services.audit.bundle.counts import Tally
from services.audit.bundle.files import (
    CHECKPOINT,
    MANIFEST,
    README,
    RECORDS,
    SIGNATURE,
    FileDigest,
    OpenedEntry,
    listed_file,
    readme,
    record_line,
    sign_manifest,
)
from services.audit.bundle.manifest import SECTION_NAMES, ListedFile, Manifest, Window
from services.audit.keys.envelope import DataKey, Sections
from services.audit.keys.keyset import KeyDestroyedError, Keyset
from services.audit.logs.folded_state import FoldedState
from services.audit.logs.segments import read_entries
from services.audit.proofs.entry import Entry, EntryKind
from services.audit.proofs.signed_note import Checkpoint, NoteSigner

PIECE_BYTES = 256 << 10
Piece = tuple[str, bytes, bool]
"""Path inside the bundle, the next bytes of that file, and whether they are its last."""


class LogReader:
    """Decrypts the folded entries of one log."""

    def __init__(self, folder: Path, state: FoldedState, keyset: Keyset) -> None:
        self._folder = folder
        self.state = state
        self._keyset = keyset
        self.shredded: set[bytes] = set()
        """dek_ids met so far whose tenant KEK was destroyed."""

    def entries(self, visible: Callable[[int], bool]) -> Iterator[OpenedEntry]:
        """Iterate over every entry, with content if its time is visible and its key is not destroyed.

        Raises:
            SegmentDamagedError: bytes are missing or changed.
            EnvelopeError: a data key is not the committed one, or an entry does not open.
            KeysetError: a data key does not open.
        """
        key: DataKey | None = None
        for entry, rest in read_entries(self._folder, self.state):
            sections: Sections | None = None
            if entry.header.kind is EntryKind.DEK_OPEN:
                key = self._data_key(entry, rest)
            elif key is not None and visible(entry.header.time_ns):
                sections = key.open(entry, rest)
            yield OpenedEntry(entry, sections)

    def _data_key(self, opening: Entry, framed: bytes) -> DataKey | None:
        dek_id = opening.header.dek_id
        try:
            key = self._keyset.dek(dek_id, framed)
        except KeyDestroyedError:
            self.shredded.add(dek_id)
            return None
        key.require(opening.commitments[0])  # proven: committed-key
        return key


def export_bundle(
    reader: LogReader,
    checkpoint: Checkpoint,
    note: bytes,
    manifest_signer: NoteSigner,
    *,
    tenant_uid: str,
    created_ns: int,
    window: Window,
    sections: tuple[str, ...] = SECTION_NAMES,
) -> Iterator[Piece]:
    """Iterate over the bundle's files, one after another, the signature last.

    Args:
        reader: reads the whole log, up to the checkpoint.
        checkpoint: the content of `note`.
        note: the signed checkpoint.
        manifest_signer: signs the manifest.
        tenant_uid: the tenant of the log.
        created_ns: nanoseconds since the Unix epoch, now.
        window: entries in it are shown with content.
        sections: the sections that are shown, in the order of `SECTION_NAMES`.

    Raises:
        SegmentDamagedError: bytes are missing or changed.
        EnvelopeError: an entry does not open under its key.
        KeysetError: a data key does not open.
    """
    digest, tally = FileDigest(), Tally()
    piece: list[bytes] = []
    piece_bytes = 0
    for opened in reader.entries(window.holds):
        tally.push(opened.entry.header)
        line = digest.update(record_line(_disclosed(opened, sections)))
        piece.append(line)
        piece_bytes += len(line)
        if piece_bytes >= PIECE_BYTES:
            yield from _pieces(RECORDS, b"".join(piece), last=False)
            piece, piece_bytes = [], 0
    yield from _pieces(RECORDS, b"".join(piece), last=True)
    files: dict[str, ListedFile] = {RECORDS: digest.result()}
    for name, data in (
        (CHECKPOINT, note),
        (README, readme(tenant_uid, checkpoint.size)),
    ):
        files[name] = listed_file(data)
        yield name, data, True
    manifest = Manifest(
        tenant_uid=tenant_uid,
        origin=checkpoint.origin,
        size=checkpoint.size,
        root=checkpoint.root,
        first_index=0,
        end_index=checkpoint.size,
        created_ns=created_ns,
        counts=tally.counts(),
        files=files,
        window=window,
        sections=sections,
        shredded=tuple(sorted(reader.shredded)),
    ).encode()
    yield MANIFEST, manifest, True
    yield SIGNATURE, sign_manifest(manifest, manifest_signer), True


def _disclosed(opened: OpenedEntry, sections: tuple[str, ...]) -> OpenedEntry:
    """The entry with only the sections that its reader may see. Of the others not even the salt is left."""
    if opened.sections is None or sections == SECTION_NAMES:
        return opened
    meta, prompt, answer = (
        section if name in sections else None
        for name, section in zip(SECTION_NAMES, opened.sections, strict=True)
    )
    return OpenedEntry(opened.entry, (meta, prompt, answer))


def _pieces(path: str, data: bytes, *, last: bool) -> Iterator[Piece]:
    for start in range(0, max(len(data), 1), PIECE_BYTES):
        end = start + PIECE_BYTES
        yield path, data[start:end], last and end >= len(data)
