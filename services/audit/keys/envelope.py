"""Sealing an entry's content under a data key (DEK).

HKDF-SHA-512 turns a DEK into an encryption key and a 32-byte commitment. The commitment is compared, in
constant time, before anything is decrypted: AES-GCM alone lets a ciphertext open under two keys (Dodis et al.,
"Fast Message Franking", 2018). Nonces count up from 1; a DEK lives no longer than one run of the service, so
none repeats.

The plaintext holds three sections, each with a random salt. The salt makes the section's commitment
C = HMAC-SHA-256(salt, payload) unguessable once the key is destroyed.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from services.audit.proofs.entry import ABSENT_COMMITMENT, Entry, Header

KEY_BYTES = 32
SALT_BYTES = 32
TAG_BYTES = 16

RandomBytes = Callable[[int], bytes]


class EnvelopeError(Exception):
    """A ciphertext does not open: another key, another header, or damage."""


@dataclass(frozen=True, slots=True)
class Section:
    """One part of an entry's content, with the salt of its commitment."""

    payload: bytes
    """Canonical JSON (RFC 8785)."""
    salt: bytes
    """32 random bytes."""

    def commitment(self) -> bytes:
        """C = HMAC-SHA-256(salt, payload)."""
        return hmac.digest(self.salt, self.payload, "sha256")


Sections = tuple[Section | None, Section | None, Section | None]
"""meta, prompt, answer; None where a section is absent."""


def commitments(sections: Sections) -> tuple[bytes, bytes, bytes]:
    """The three commitments of an entry: 32 bytes each, zeros for an absent section."""
    meta, prompt, answer = (s.commitment() if s else ABSENT_COMMITMENT for s in sections)
    return meta, prompt, answer


def salted(payloads: Sequence[bytes | None], random_bytes: RandomBytes) -> Sections:
    """Give each of the three payloads a fresh salt."""
    meta, prompt, answer = (
        Section(payload, random_bytes(SALT_BYTES)) if payload is not None else None for payload in payloads
    )
    return meta, prompt, answer


class DataKey:
    """One DEK, ready to seal and open."""

    def __init__(self, dek: bytes, log_id: bytes, dek_id: bytes) -> None:
        derived = HKDF(
            algorithm=hashes.SHA512(),
            length=2 * KEY_BYTES,
            salt=None,
            info=b"tenantry/audit/dek/v1" + log_id + dek_id,
        ).derive(dek)
        self.dek_id = dek_id
        self.commitment = derived[KEY_BYTES:]
        self._cipher = AESGCM(derived[:KEY_BYTES])

    def require(self, commitment: bytes) -> None:
        """Check that this is the key a DEK_OPEN entry committed to.

        Raises:
            EnvelopeError: this is another key.
        """
        if not hmac.compare_digest(self.commitment, commitment):
            raise EnvelopeError("the data key is not the one the log committed to")

    def seal(self, header: Header, sections: Sections) -> tuple[Entry, bytes]:
        """Encrypt sections under a header. Returns the entry and its ciphertext ‖ tag."""
        ciphertext = self._cipher.encrypt(_nonce(header), _encode_sections(sections), header.encode())
        return Entry(header, hashlib.sha256(ciphertext).digest(), commitments(sections)), ciphertext

    def open(self, entry: Entry, ciphertext: bytes) -> Sections:
        """Decrypt an entry's sections and check them against its commitments.

        Raises:
            EnvelopeError: another key, another header, or damage.
        """
        if hashlib.sha256(ciphertext).digest() != entry.ciphertext_digest:
            raise EnvelopeError("the ciphertext is not the entry's")
        try:
            plaintext = self._cipher.decrypt(_nonce(entry.header), ciphertext, entry.header.encode())
        except InvalidTag:
            raise EnvelopeError("the ciphertext does not open under this key") from None
        sections = _decode_sections(plaintext)
        if commitments(sections) != entry.commitments:
            raise EnvelopeError("the content is not what the entry committed to")
        return sections


def dek_open_entry(header: Header, key: DataKey) -> Entry:
    """The entry that commits a log to a new DEK: its first commitment is the key's, its ciphertext empty."""
    digest = hashlib.sha256(b"").digest()
    return Entry(header, digest, (key.commitment, ABSENT_COMMITMENT, ABSENT_COMMITMENT))


def _nonce(header: Header) -> bytes:
    return header.counter.to_bytes(12, "big")


def _encode_sections(sections: Sections) -> bytes:
    parts = []
    for section in sections:
        if section is None:
            parts.append(b"\x00")
        else:
            parts.append(b"\x01" + section.salt + len(section.payload).to_bytes(4, "big") + section.payload)
    return b"".join(parts)


def _decode_sections(plaintext: bytes) -> Sections:
    found: list[Section | None] = []
    place = 0
    for _ in range(3):
        present = plaintext[place : place + 1]
        place += 1
        if present == b"\x00":
            found.append(None)
            continue
        if present != b"\x01":
            raise EnvelopeError("the plaintext does not hold three sections")
        salt = plaintext[place : place + SALT_BYTES]
        length = int.from_bytes(plaintext[place + SALT_BYTES : place + SALT_BYTES + 4], "big")
        place += SALT_BYTES + 4
        found.append(Section(plaintext[place : place + length], salt))
        place += length
    if place != len(plaintext):
        raise EnvelopeError("the plaintext has another length than its sections")
    return found[0], found[1], found[2]
