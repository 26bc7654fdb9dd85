"""One entry of a tenant's log: a clear header, a digest of its ciphertext, three commitments.

    entry = header (138 bytes) ‖ SHA-256(ciphertext ‖ tag) (32) ‖ commitments of meta, prompt, answer (3 x 32)
    leaf  = SHA-256(0x00 ‖ entry)                                            RFC 6962, section 2.1

The header is the associated data of the entry's encryption. Nothing in it is personal: the caller's key is a
digest, and session and writer name a process of the mesh. docs/formats/audit-log.md gives every byte.
"""

from __future__ import annotations

import hashlib
import itertools
import struct
from dataclasses import dataclass
from enum import IntEnum

ENTRY_VERSION = 1
DIGEST_BYTES = 32
ID_BYTES = 16
NO_ID = bytes(ID_BYTES)
ABSENT_COMMITMENT = bytes(DIGEST_BYTES)

_HEADER = struct.Struct(">BB16sQQ16s16s16s16s16s16sQ")
HEADER_BYTES = _HEADER.size
ENTRY_BYTES = HEADER_BYTES + 4 * DIGEST_BYTES


class EntryFormatError(ValueError):
    """Bytes are not an entry."""


class EntryKind(IntEnum):
    """The kind of an entry. The numbers are those of `tenantry.audit.v1.EntryKind`."""

    ADMIT = 1
    OUTCOME = 2
    OUTCOME_UNKNOWN = 3
    GAP = 4
    CONFIG_VERSION = 5
    ADMIN_INTENT = 6
    ADMIN_OUTCOME = 7
    REFUSED = 8
    REVIEW = 9
    DEK_OPEN = 10
    LOG_OPENED = 11


@dataclass(frozen=True, slots=True)
class Header:
    """The clear part of an entry."""

    kind: EntryKind
    log_id: bytes
    """16 bytes."""
    index: int
    """The entry's place in its log, from 0."""
    time_ns: int
    """Nanoseconds since the Unix epoch, by the service's clock. Never goes back within a log."""
    record_id: bytes
    """16 bytes, unique within the log."""
    admit_record_id: bytes
    """Of an outcome, the record id of its admit; of LOG_OPENED, the id of the log before; otherwise 16 zero bytes."""
    key_digest: bytes
    """`name_digest` of the caller's key id; of LOG_OPENED, of the tenant's uid."""
    session_id: bytes
    """The session of the writer that appended the entry; zero bytes for entries of the service itself."""
    writer_digest: bytes
    """`name_digest` of that writer's name."""
    dek_id: bytes
    """The id of the data key that encrypts the entry, 16 bytes."""
    counter: int
    """The nonce under that key; 0 for a DEK_OPEN entry, which encrypts nothing."""

    def encode(self) -> bytes:
        """The header's 138 bytes."""
        return _HEADER.pack(
            ENTRY_VERSION,
            self.kind,
            self.log_id,
            self.index,
            self.time_ns,
            self.record_id,
            self.admit_record_id,
            self.key_digest,
            self.session_id,
            self.writer_digest,
            self.dek_id,
            self.counter,
        )

    @classmethod
    def decode(cls, data: bytes) -> Header:
        """Parse a header's 138 bytes.

        Raises:
            EntryFormatError: another length, version or kind.
        """
        if len(data) != HEADER_BYTES:
            raise EntryFormatError(f"a header has {HEADER_BYTES} bytes, not {len(data)}")
        version, kind, *fields = _HEADER.unpack(data)
        if version != ENTRY_VERSION:
            raise EntryFormatError(f"entry version {version} is not {ENTRY_VERSION}")
        try:
            return cls(EntryKind(kind), *fields)
        except ValueError:
            raise EntryFormatError(f"entry kind {kind} does not exist") from None


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry. The tree commits to its encoding."""

    header: Header
    ciphertext_digest: bytes
    commitments: tuple[bytes, bytes, bytes]

    def encode(self) -> bytes:
        """The entry's 266 bytes."""
        return b"".join((self.header.encode(), self.ciphertext_digest, *self.commitments))

    @classmethod
    def decode(cls, data: bytes) -> Entry:
        """Parse an entry's 266 bytes.

        Raises:
            EntryFormatError: another length, version or kind.
        """
        if len(data) != ENTRY_BYTES:
            raise EntryFormatError(f"an entry has {ENTRY_BYTES} bytes, not {len(data)}")
        cuts = [HEADER_BYTES + number * DIGEST_BYTES for number in range(5)]
        digest, meta, prompt, answer = (data[start:end] for start, end in itertools.pairwise(cuts))
        return cls(Header.decode(data[:HEADER_BYTES]), digest, (meta, prompt, answer))


def name_digest(name: str) -> bytes:
    """The first 16 bytes of a name's SHA-256, which the clear header holds; zero bytes for no name."""
    return hashlib.sha256(name.encode()).digest()[:ID_BYTES] if name else NO_ID
