"""The five files of a bundle, which together verify offline. docs/formats/audit-bundle.md specifies every line.

records.jsonl     one line for each entry: its clear bytes, and content with salts if the reader may see it
checkpoint        the log's signed size and root
README.txt        says to people what the bundle is
manifest.json     says what is held and shown; has counts and the SHA-256 of every file above
manifest.sig      a signed note over the manifest's SHA-256
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from services.audit.bundle.manifest import FORMAT, SECTION_NAMES, ListedFile
from services.audit.keys.envelope import Sections
from services.audit.proofs.entry import Entry
from services.audit.proofs.signed_note import NoteSigner

RECORDS, CHECKPOINT, README = "records.jsonl", "checkpoint", "README.txt"
MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"


@dataclass(frozen=True, slots=True)
class OpenedEntry:
    """An entry, and its content if the reader may see it."""

    entry: Entry
    sections: Sections | None


def record_line(opened: OpenedEntry) -> bytes:
    """Make one line of records.jsonl: canonical JSON, with payloads embedded as they were stored."""
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


def sign_manifest(data: bytes, signer: NoteSigner) -> bytes:
    """Make manifest.sig."""
    return signer.sign(manifest_note_text(data))


def manifest_note_text(data: bytes) -> str:
    """The text that manifest.sig signs."""
    return f"{FORMAT}\n{hashlib.sha256(data).hexdigest()}\n"


def manifest_key_name(origin: str) -> str:
    """The name of the key that signs a log's manifests."""
    return f"{origin}/manifest"


def readme(tenant_uid: str, size: int) -> bytes:
    """Make README.txt."""
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
    """Computes SHA-256 and length of a file that is written or read piece by piece."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._length = 0

    def update(self, data: bytes) -> bytes:
        """Add a piece, and return it."""
        self._digest.update(data)
        self._length += len(data)
        return data

    def result(self) -> ListedFile:
        """The file as the manifest lists it."""
        return ListedFile(self._digest.hexdigest(), self._length)


def listed_file(data: bytes) -> ListedFile:
    """A whole file as the manifest lists it."""
    digest = FileDigest()
    digest.update(data)
    return digest.result()
