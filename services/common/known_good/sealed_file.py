"""A last known good file: config sealed in a file, to start from when no config service or etcd answers.

docs/formats/last-known-good.md specifies the bytes. AES-256-GCM authenticates the file under a key of this host; the
header stays readable and is authenticated with it. `generations` keeps two such files.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

import rfc8785
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32
MAGIC = b"tenantry-lkg-v1\n"
MAX_FILE_BYTES = 1 << 30
FUTURE_TOLERANCE_SECONDS = 60.0
"""The clock of a host may be set back this far between two runs."""

_LENGTH_BYTES = 8
_HEADER_LENGTH_BYTES = 4
_FRAME_BYTES = len(MAGIC) + _LENGTH_BYTES + _HEADER_LENGTH_BYTES
_SALT_BYTES = 32
_TAG_BYTES = 16
_DIGEST_BYTES = 32
_PART_LENGTH_BYTES = 4
# Each file has a key of its own, so one fixed nonce is used once.
_NONCE = bytes(12)
# Encryption of a piece holds the interpreter's lock, and a whole config would hold up the event loop.
_PIECE_BYTES = 1 << 18


class KnownGoodError(Exception):
    """A file is refused. The text names it and says why."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class TruncatedError(KnownGoodError):
    """The file ends early."""


class DamagedError(KnownGoodError):
    """The file does not hold the bytes that were written."""


class UnknownFormatError(KnownGoodError):
    """The file has another format, or another version of this one."""


class ForeignKeyError(KnownGoodError):
    """The file was sealed under another key."""


class AnotherKindError(KnownGoodError):
    """Another kind of service wrote the file."""


class AnotherOwnerError(KnownGoodError):
    """Another process wrote the file."""


class AnotherClusterError(KnownGoodError):
    """The file holds the config of another etcd cluster."""


class TooOldError(KnownGoodError):
    """The config was last known to be current too long ago."""


class FromTheFutureError(KnownGoodError):
    """The file says that it was current in the future: a clock is wrong, so its age is unknown."""


class Kind(StrEnum):
    """The kind of service that wrote a file."""

    CONFIG = "config"
    ROUTER = "router"


@dataclass(frozen=True, slots=True)
class Header:
    """The clear part of a file."""

    kind: Kind
    cluster_id: str
    """Id of the etcd cluster, in hex; empty when it is unknown."""
    owner: str
    """The name of the process that wrote the file."""
    revision: int
    written_unix_ms: int
    """When the content was last known to be current, by the wall clock."""

    def age_seconds(self, now_wall_seconds: float) -> float:
        """How long ago the content was last known to be current; never below zero."""
        return max(0.0, now_wall_seconds - self.written_unix_ms / 1000)


@dataclass(frozen=True, slots=True)
class Expected:
    """The properties that a file has to have."""

    kind: Kind
    owner: str
    max_age_seconds: float
    cluster_id: str = ""
    """Empty for any."""


@dataclass(frozen=True, slots=True)
class KnownGood:
    """An opened file."""

    path: Path
    header: Header
    parts: Sequence[bytes]


def seal(key: bytes, header: Header, parts: Sequence[bytes]) -> Iterator[bytes]:
    """Make the bytes of a file, piece by piece.

    Raises:
        ValueError: the file would be longer than `MAX_FILE_BYTES`.
    """
    payload_bytes = sum(_PART_LENGTH_BYTES + len(part) for part in parts)
    head = rfc8785.dumps(asdict(header) | {"payload_bytes": payload_bytes})
    size = _FRAME_BYTES + len(head) + _SALT_BYTES + _DIGEST_BYTES + payload_bytes + _TAG_BYTES + _DIGEST_BYTES
    if size > MAX_FILE_BYTES:
        raise ValueError(f"{size} bytes are more than a last known good file may have")
    bound = (
        MAGIC + size.to_bytes(_LENGTH_BYTES, "big") + len(head).to_bytes(_HEADER_LENGTH_BYTES, "big") + head
    )
    salt = os.urandom(_SALT_BYTES)
    file_key, commitment = _derive(key, salt)
    encryptor = Cipher(algorithms.AES256(file_key), modes.GCM(_NONCE)).encryptor()
    encryptor.authenticate_additional_data(bound)
    digest = hashlib.sha256(opening := bound + salt + commitment)
    yield opening
    for piece in _pieces(parts):
        digest.update(sealed := encryptor.update(piece))
        yield sealed
    digest.update(last := encryptor.finalize() + encryptor.tag)
    yield last + digest.digest()


def unseal(key: bytes, path: Path, data: bytes) -> KnownGood:
    """Open the bytes of a file. Nothing is parsed before it is authenticated.

    Raises:
        KnownGoodError: truncated, damaged, of another format, or sealed under another key.
    """
    if not data.startswith(MAGIC):
        if MAGIC.startswith(data):
            raise TruncatedError(path, "ends early")
        raise UnknownFormatError(path, "is not a last known good file of version 1")
    view = memoryview(data)
    size = int.from_bytes(view[len(MAGIC) :][:_LENGTH_BYTES], "big")
    if len(data) < _FRAME_BYTES or len(data) < size:
        raise TruncatedError(path, "ends early")
    head_bytes = int.from_bytes(view[_FRAME_BYTES - _HEADER_LENGTH_BYTES : _FRAME_BYTES], "big")
    salt_at = _FRAME_BYTES + head_bytes
    sealed_at = salt_at + _SALT_BYTES + _DIGEST_BYTES
    tag_at = size - _DIGEST_BYTES - _TAG_BYTES
    if len(data) != size or sealed_at > tag_at:
        raise DamagedError(path, "has another length than it says")
    # The steps below cannot distinguish damage from another key, and an operator has to know which it is.
    if hashlib.sha256(view[:-_DIGEST_BYTES]).digest() != view[-_DIGEST_BYTES:]:
        raise DamagedError(path, "its checksum does not match")
    file_key, commitment = _derive(key, bytes(view[salt_at : salt_at + _SALT_BYTES]))
    if not hmac.compare_digest(commitment, view[sealed_at - _DIGEST_BYTES : sealed_at]):
        raise ForeignKeyError(path, "was sealed under another key")  # proven: foreign-key-is-named
    gcm = modes.GCM(_NONCE, bytes(view[tag_at : tag_at + _TAG_BYTES]))
    decryptor = Cipher(algorithms.AES256(file_key), gcm).decryptor()
    decryptor.authenticate_additional_data(view[:salt_at])
    try:
        payload = decryptor.update(view[sealed_at:tag_at]) + decryptor.finalize()
    except InvalidTag:
        raise DamagedError(path, "was changed without its key") from None
    header = _header(path, bytes(view[_FRAME_BYTES:salt_at]), len(payload))
    return KnownGood(path, header, _split(path, payload))


def require(expected: Expected, known: KnownGood, now_wall_seconds: float) -> None:
    """Check kind, owner, cluster and age of a file.

    Raises:
        KnownGoodError: one of them is not as expected.
    """
    path, header = known.path, known.header
    if header.kind is not expected.kind:
        raise AnotherKindError(path, f"is a {header.kind}'s, not a {expected.kind}'s")
    if header.owner != expected.owner:
        raise AnotherOwnerError(path, f"was written by {header.owner}, not by {expected.owner}")
    if expected.cluster_id and header.cluster_id != expected.cluster_id:  # proven: of-this-cluster
        raise AnotherClusterError(
            path, f"is of etcd cluster {header.cluster_id}, not of {expected.cluster_id}"
        )
    ahead_seconds = header.written_unix_ms / 1000 - now_wall_seconds
    if ahead_seconds > FUTURE_TOLERANCE_SECONDS:
        raise FromTheFutureError(path, f"was current {ahead_seconds:.0f} s in the future: a clock is wrong")
    if header.age_seconds(now_wall_seconds) > expected.max_age_seconds:  # proven: not-too-old
        age_seconds = header.age_seconds(now_wall_seconds)
        raise TooOldError(
            path,
            f"was current {age_seconds:.0f} s ago, more than the {expected.max_age_seconds:.0f} s allowed",
        )


def _derive(key: bytes, salt: bytes) -> tuple[bytes, bytes]:
    """The key of the file and a commitment to it, since AES-GCM alone lets a ciphertext open under two keys."""
    info = b"tenantry/last-known-good/v1"
    derived = HKDF(hashes.SHA512(), KEY_BYTES + _DIGEST_BYTES, salt, info).derive(key)
    return derived[:KEY_BYTES], derived[KEY_BYTES:]


def _pieces(parts: Sequence[bytes]) -> Iterator[bytes]:
    held = bytearray()
    for part in parts:
        held += len(part).to_bytes(_PART_LENGTH_BYTES, "big")
        for start in range(0, len(part), _PIECE_BYTES):
            held += part[start : start + _PIECE_BYTES]
            if len(held) >= _PIECE_BYTES:
                yield bytes(held)
                held.clear()
    yield bytes(held)


def _split(path: Path, payload: bytes) -> list[bytes]:
    parts, place = [], 0
    while place < len(payload):
        start = place + _PART_LENGTH_BYTES
        place = start + int.from_bytes(payload[place:start], "big")
        parts.append(payload[start:place])
    if place != len(payload):
        raise DamagedError(path, "its payload does not come apart")
    return parts


def _header(path: Path, raw: bytes, payload_bytes: int) -> Header:
    damaged = DamagedError(path, "its header is not one of version 1")
    try:
        fields = json.loads(raw)
        if rfc8785.dumps(fields) != raw or fields.pop("payload_bytes") != payload_bytes:
            raise damaged
        header = Header(**fields | {"kind": Kind(fields["kind"])})
    except (ValueError, TypeError, KeyError, AttributeError):
        raise damaged from None
    texts, numbers = (header.cluster_id, header.owner), (header.revision, header.written_unix_ms)
    if not all(isinstance(text, str) for text in texts) or not all(isinstance(n, int) for n in numbers):
        raise damaged
    return header
