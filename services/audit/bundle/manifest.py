"""manifest.json: what a bundle holds and what it shows. docs/formats/audit-bundle.md specifies every name.

A manifest is parsed into values of one type each and encoded again. It is canonical if that gives the same bytes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import rfc8785

from services.audit.proofs.entry import DIGEST_BYTES, ID_BYTES
from services.audit.proofs.merkle import RangeProof

FORMAT = "tenantry/audit-bundle/v1"
SECTION_NAMES = ("meta", "prompt", "answer")
_NAMES = frozenset(
    [
        *("format", "tenant_uid", "origin", "size", "root", "first_index", "end_index", "proof"),
        *("created_ns", "filters", "sections", "shredded", "counts", "files"),
    ]
)


_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


class ManifestError(ValueError):
    """The bytes are not a canonical manifest."""


@dataclass(frozen=True, slots=True)
class Window:
    """A window of time. Entries with start_ns <= time_ns < end_ns are shown with content; None is no bound."""

    start_ns: int | None = None
    end_ns: int | None = None

    def holds(self, time_ns: int) -> bool:
        """Whether a time lies in the window."""
        return not self.begins_after(time_ns) and not self.ended_by(time_ns)

    def begins_after(self, time_ns: int) -> bool:
        """Whether the window begins after a time."""
        return self.start_ns is not None and time_ns < self.start_ns

    def ended_by(self, time_ns: int) -> bool:
        """Whether the window has ended by a time."""
        return self.end_ns is not None and time_ns >= self.end_ns

    def document(self) -> dict[str, str]:
        """The manifest's `filters`."""
        bounds = (("start_ns", self.start_ns), ("end_ns", self.end_ns))
        return {name: str(value) for name, value in bounds if value is not None}


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file as the manifest lists it: SHA-256 in hex, and length."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """Says that a bundle holds the entries first_index..end_index-1 of a log, and which content it shows."""

    tenant_uid: str
    origin: str
    size: int
    root: bytes
    first_index: int
    end_index: int
    created_ns: int
    counts: dict[str, int]
    files: dict[str, ListedFile]
    proof: RangeProof = field(default_factory=RangeProof)
    """Leads from the entries of the bundle to the root."""
    window: Window = field(default_factory=Window)
    sections: tuple[str, ...] = SECTION_NAMES
    """The sections that are shown of an entry in the window."""
    shredded: tuple[bytes, ...] = ()
    """dek_ids of destroyed keys, ascending. Nothing that they encrypt is shown."""

    def shows(self, name: str, time_ns: int, dek_id: bytes) -> bool:
        """Whether the bundle has to show a section of an entry that has it. If not, it must not show it."""
        return name in self.sections and dek_id not in self.shredded and self.window.holds(time_ns)

    def encode(self) -> bytes:
        """Canonical JSON and a newline."""
        document: dict[str, Any] = {
            "format": FORMAT,
            "tenant_uid": self.tenant_uid,
            "origin": self.origin,
            "size": self.size,
            "root": self.root.hex(),
            "first_index": self.first_index,
            "end_index": self.end_index,
            "proof": {
                "left": [item.hex() for item in self.proof.left],
                "right": [item.hex() for item in self.proof.right],
            },
            "created_ns": str(self.created_ns),
            "filters": self.window.document(),
            "sections": list(self.sections),
            "shredded": [dek_id.hex() for dek_id in self.shredded],
            "counts": self.counts,
            "files": {
                name: {"sha256": listed.sha256, "bytes": listed.size_bytes}
                for name, listed in self.files.items()
            },
        }
        return rfc8785.dumps(document) + b"\n"

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """Parse manifest.json.

        Raises:
            ManifestError: not the canonical encoding of a manifest of this format.
        """
        try:
            manifest = _parse(json.loads(data))
            canonical = manifest.encode() == data
        except (*_UNREADABLE, rfc8785.CanonicalizationError):
            canonical = False
        if not canonical:
            raise ManifestError("is not a canonical manifest of this format")
        return manifest


def _parse(document: dict[str, Any]) -> Manifest:
    if set(document) != _NAMES or document["format"] != FORMAT:
        raise ManifestError
    filters, proof = document["filters"], document["proof"]
    if not set(filters) <= {"start_ns", "end_ns"} or set(proof) != {"left", "right"}:
        raise ManifestError
    sections = tuple(document["sections"])
    if sections != tuple(name for name in SECTION_NAMES if name in sections):
        raise ManifestError
    shredded = tuple(_hex(item, ID_BYTES) for item in document["shredded"])
    if list(shredded) != sorted(set(shredded)):
        raise ManifestError
    bounds = {name: _decimal(value) for name, value in filters.items()}
    return Manifest(
        tenant_uid=_text(document["tenant_uid"]),
        origin=_text(document["origin"]),
        size=_number(document["size"]),
        root=_hex(document["root"], DIGEST_BYTES),
        first_index=_number(document["first_index"]),
        end_index=_number(document["end_index"]),
        created_ns=_decimal(document["created_ns"]),
        counts={name: _number(value) for name, value in document["counts"].items()},
        files={name: _listed(item) for name, item in document["files"].items()},
        proof=RangeProof(
            tuple(_hex(item, DIGEST_BYTES) for item in proof["left"]),
            tuple(_hex(item, DIGEST_BYTES) for item in proof["right"]),
        ),
        window=Window(bounds.get("start_ns"), bounds.get("end_ns")),
        sections=sections,
        shredded=shredded,
    )


def _listed(item: dict[str, Any]) -> ListedFile:
    return ListedFile(_hex(item["sha256"], DIGEST_BYTES).hex(), _number(item["bytes"]))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ManifestError
    return value


def _number(value: object) -> int:
    # A bool is an int to Python, and 1 to a comparison.
    if type(value) is not int or value < 0:
        raise ManifestError
    return value


def _decimal(value: object) -> int:
    text = _text(value)
    if not text.isascii() or not text.isdecimal() or len(text) > 20:
        raise ManifestError
    return int(text)


def _hex(value: object, length: int) -> bytes:
    data = bytes.fromhex(_text(value))
    if len(data) != length:
        raise ManifestError
    return data
