"""Writes one tenant's bundle, piece by piece: memory holds one entry at a time and the entries' clear headers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from services.audit import bundle
from services.audit.entry import Entry, EntryKind
from services.audit.envelope import DataKey
from services.audit.keyset import Keyset
from services.audit.log import FoldedState
from services.audit.segments import read_entries
from services.audit.signed_note import Checkpoint, NoteSigner

PIECE_BYTES = 256 << 10
Piece = tuple[str, bytes, bool]
"""Path inside the bundle, the next bytes of it, whether they end the file."""


class LogReader:
    """Decrypts one log's folded entries."""

    def __init__(self, folder: Path, state: FoldedState, keyset: Keyset) -> None:
        self._folder = folder
        self.state = state
        self._keyset = keyset

    def entries(self, visible: Callable[[int], bool]) -> Iterator[bundle.OpenedEntry]:
        """Every entry, with content where its time is visible.

        Raises:
            SegmentDamagedError: bytes are missing or changed.
            EnvelopeError: a data key is not the committed one, or an entry does not open.
            KeysetError: a data key does not open.
        """
        keys: dict[bytes, DataKey] = {}
        for entry, ciphertext in read_entries(self._folder, self.state):
            header = entry.header
            if header.kind is EntryKind.DEK_OPEN:
                key = self._keyset.dek(header.dek_id, ciphertext)
                key.require(entry.commitments[0])
                keys = {header.dek_id: key}
                yield bundle.OpenedEntry(entry, None)
            elif visible(header.time_ns):
                yield bundle.OpenedEntry(entry, keys[header.dek_id].open(entry, ciphertext))
            else:
                yield bundle.OpenedEntry(entry, None)


def export_bundle(
    reader: LogReader,
    checkpoint: Checkpoint,
    note: bytes,
    manifest_signer: NoteSigner,
    *,
    tenant_uid: str,
    created_ns: int,
    start_ns: int | None,
    end_ns: int | None,
) -> Iterator[Piece]:
    """The bundle's files, one after another, the signature last.

    Raises:
        SegmentDamagedError: bytes are missing or changed.
        EnvelopeError: an entry does not open under its key.
        KeysetError: a data key does not open.
    """

    def visible(time_ns: int) -> bool:
        return (start_ns is None or time_ns >= start_ns) and (end_ns is None or time_ns < end_ns)

    files: dict[str, tuple[str, int]] = {}
    digest = bundle.FileDigest()
    clear: list[Entry] = []
    piece: list[bytes] = []
    piece_bytes = 0
    for opened in reader.entries(visible):
        line = digest.update(bundle.record_line(opened))
        clear.append(opened.entry)
        piece.append(line)
        piece_bytes += len(line)
        if piece_bytes >= PIECE_BYTES:
            yield from _pieces(bundle.RECORDS, b"".join(piece), last=False)
            piece, piece_bytes = [], 0
    yield from _pieces(bundle.RECORDS, b"".join(piece), last=True)
    files[bundle.RECORDS] = digest.result()
    for name, data in (
        (bundle.CHECKPOINT, note),
        (bundle.README, bundle.readme(tenant_uid, checkpoint.size)),
    ):
        one = bundle.FileDigest()
        one.update(data)
        files[name] = one.result()
        yield name, data, True
    filters = {
        name: str(value) for name, value in (("start_ns", start_ns), ("end_ns", end_ns)) if value is not None
    }
    manifest = bundle.manifest(
        tenant_uid=tenant_uid,
        origin=checkpoint.origin,
        size=checkpoint.size,
        root=checkpoint.root,
        created_ns=created_ns,
        filters=filters,
        entry_counts=bundle.counts(clear),
        files=files,
    )
    yield bundle.MANIFEST, manifest, True
    yield bundle.SIGNATURE, bundle.sign_manifest(manifest, manifest_signer), True


def _pieces(path: str, data: bytes, *, last: bool) -> Iterator[Piece]:
    for start in range(0, max(len(data), 1), PIECE_BYTES):
        end = start + PIECE_BYTES
        yield path, data[start:end], last and end >= len(data)
