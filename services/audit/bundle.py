"""Export bundles: one tenant's log as files that verify offline. docs/formats/audit-bundle.md gives every line.

records.jsonl     one line an entry: its clear bytes, and content with salts where the reader may see it
checkpoint        the log's signed size and root
README.txt        what this is, for people
manifest.json     counts, and the SHA-256 of every file above
manifest.sig      a signed note over the manifest's SHA-256
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import rfc8785

from services.audit.entry import Entry, EntryKind
from services.audit.envelope import Sections
from services.audit.signed_note import NoteSigner

RECORDS, CHECKPOINT, README = "records.jsonl", "checkpoint", "README.txt"
MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
MANIFEST_FORMAT = "tenantry/audit-bundle/v1"
MANIFEST_NAMES = frozenset(
    [
        "format",
        "tenant_uid",
        "origin",
        "first_index",
        "size",
        "root",
        "created_ns",
        "filters",
        "counts",
        "files",
    ]
)
SECTION_NAMES = ("meta", "prompt", "answer")


@dataclass(frozen=True, slots=True)
class OpenedEntry:
    """An entry and, where its reader may see it, its content."""

    entry: Entry
    sections: Sections | None


def record_line(opened: OpenedEntry) -> bytes:
    """One line of records.jsonl: canonical JSON, payloads embedded as they were stored."""
    header = opened.entry.header
    parts = [
        b'"entry":"' + opened.entry.encode().hex().encode() + b'"',
        b'"index":%d' % header.index,
        b'"kind":"' + header.kind.name.lower().encode() + b'"',
        b'"time_ns":"%d"' % header.time_ns,
    ]
    for name, section in zip(SECTION_NAMES, opened.sections or (None, None, None), strict=True):
        if section is not None:
            salt = section.salt.hex().encode()
            parts.append(
                b'"' + name.encode() + b'":{"payload":' + section.payload + b',"salt":"' + salt + b'"}'
            )
    # RFC 8785 sorts names by UTF-16 code units; ours are ASCII, so bytes sort alike.
    return b"{" + b",".join(sorted(parts)) + b"}\n"


def counts(entries: Iterable[Entry]) -> dict[str, int]:
    """How many entries of each kind; `open` counts admits without an outcome."""
    found: Counter[str] = Counter()
    unsettled: set[bytes] = set()
    for entry in entries:
        header = entry.header
        found[header.kind.name.lower()] += 1
        if header.kind is EntryKind.ADMIT:
            unsettled.add(header.record_id)
        elif header.kind in (EntryKind.OUTCOME, EntryKind.OUTCOME_UNKNOWN):
            unsettled.discard(header.admit_record_id)
    return {**dict(sorted(found.items())), "open": len(unsettled)}


def manifest(
    *,
    tenant_uid: str,
    origin: str,
    size: int,
    root: bytes,
    created_ns: int,
    filters: dict[str, str],
    entry_counts: dict[str, int],
    files: dict[str, tuple[str, int]],
) -> bytes:
    """manifest.json: canonical JSON and a newline. `files` gives SHA-256 and length of each."""
    document: dict[str, Any] = {
        "format": MANIFEST_FORMAT,
        "tenant_uid": tenant_uid,
        "origin": origin,
        "first_index": 0,
        "size": size,
        "root": root.hex(),
        "created_ns": str(created_ns),
        "filters": filters,
        "counts": entry_counts,
        "files": {name: {"sha256": sha256, "bytes": length} for name, (sha256, length) in files.items()},
    }
    return rfc8785.dumps(document) + b"\n"


def sign_manifest(data: bytes, signer: NoteSigner) -> bytes:
    """manifest.sig."""
    return signer.sign(manifest_note_text(data))


def manifest_note_text(data: bytes) -> str:
    """What manifest.sig signs."""
    return f"{MANIFEST_FORMAT}\n{hashlib.sha256(data).hexdigest()}\n"


def manifest_key_name(origin: str) -> str:
    """The name of the key that signs a log's manifests."""
    return f"{origin}/manifest"


def readme(tenant_uid: str, size: int) -> bytes:
    """README.txt."""
    return (
        f"The audit log of tenant {tenant_uid}: {size} entries.\n"
        "\n"
        "Each line of records.jsonl is one entry, in order. `tenantry audit verify` checks all of it offline, with\n"
        "public keys you kept from before; keys that came with this bundle would prove nothing.\n"
        "\n"
        "What verification shows: the entries are those the checkpoint covers, none changed, missing, added or\n"
        "moved, and the content shown is what each entry committed to. What it cannot show: that the encrypted\n"
        "copy held by the service decrypts to the same content; that is the service's own check.\n"
    ).encode()


class FileDigest:
    """SHA-256 and length of a file that is written piece by piece."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self.length = 0

    def update(self, data: bytes) -> bytes:
        """Count a piece; returns it."""
        self._digest.update(data)
        self.length += len(data)
        return data

    def result(self) -> tuple[str, int]:
        """Lowercase hex and bytes."""
        return self._digest.hexdigest(), self.length
