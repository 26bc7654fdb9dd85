"""The key hierarchy: root KEK → tenant KEK → data keys (DEKs), one keyring file a log.

Every wrap is AES-256-GCM whose associated data names tenant, log and key, so that no wrapped key can be moved to
another place. Tenant KEKs are random, not derived: destroying one makes its tenant's content unreadable for good.
A keyring lies outside what the tree commits to, so that keys can be rewrapped without touching a leaf.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from services.audit.entry import ID_BYTES
from services.audit.envelope import KEY_BYTES, DataKey, RandomBytes
from services.audit.file_ops import make_directory, replace_file

_NONCE_BYTES = 12


class KeysetError(Exception):
    """A keyring is missing, damaged, or wrapped under other keys."""


class KeyProvider(Protocol):
    """Whoever holds the root KEK: a file here, a key service in production."""

    def wrap(self, key: bytes, associated_data: bytes) -> bytes:
        """Encrypt a tenant KEK under the root KEK."""
        ...

    def unwrap(self, wrapped: bytes, associated_data: bytes) -> bytes:
        """Decrypt a tenant KEK.

        Raises:
            KeysetError: another root, another place, or damage.
        """
        ...


def wrap(key: bytes, under: bytes, associated_data: bytes, random_bytes: RandomBytes) -> bytes:
    """Nonce ‖ AES-256-GCM(key)."""
    nonce = random_bytes(_NONCE_BYTES)
    return nonce + AESGCM(under).encrypt(nonce, key, associated_data)


def unwrap(wrapped: bytes, under: bytes, associated_data: bytes) -> bytes:
    """The key inside a wrap.

    Raises:
        KeysetError: another key, another place, or damage.
    """
    try:
        return AESGCM(under).decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], associated_data)
    except (InvalidTag, ValueError):
        raise KeysetError("a wrapped key does not open") from None


class FileKeyProvider:
    """The root KEK in a file of mode 0400, made at the first start."""

    def __init__(self, path: Path, random_bytes: RandomBytes = os.urandom) -> None:
        if not path.exists():
            make_directory(path.parent)
            replace_file(path, random_bytes(KEY_BYTES), mode=0o400)
        self._root = path.read_bytes()
        self._random_bytes = random_bytes
        if len(self._root) != KEY_BYTES:
            raise KeysetError(f"the root key file holds {len(self._root)} bytes, not {KEY_BYTES}")

    def wrap(self, key: bytes, associated_data: bytes) -> bytes:
        """Encrypt a tenant KEK under the root KEK."""
        return wrap(key, self._root, associated_data, self._random_bytes)

    def unwrap(self, wrapped: bytes, associated_data: bytes) -> bytes:
        """Decrypt a tenant KEK."""
        return unwrap(wrapped, self._root, associated_data)


@dataclass(slots=True)
class Keyring:
    """One log's wrapped keys, as its file holds them."""

    tenant_uid: str
    log_id: bytes
    wrapped_kek: bytes
    wrapped_deks: dict[bytes, bytes] = field(default_factory=dict)
    """dek_id to wrapped DEK."""

    def encode(self) -> bytes:
        """The file's bytes."""
        document = {
            "version": 1,
            "tenant_uid": self.tenant_uid,
            "log_id": self.log_id.hex(),
            "kek": {"version": 1, "wrapped": self.wrapped_kek.hex()},
            "deks": {dek_id.hex(): wrapped.hex() for dek_id, wrapped in self.wrapped_deks.items()},
        }
        return json.dumps(document, indent=1).encode()

    @classmethod
    def decode(cls, data: bytes) -> Keyring:
        """Parse a file's bytes.

        Raises:
            KeysetError: not a keyring.
        """
        try:
            document = json.loads(data)
            return cls(
                document["tenant_uid"],
                bytes.fromhex(document["log_id"]),
                bytes.fromhex(document["kek"]["wrapped"]),
                {bytes.fromhex(k): bytes.fromhex(v) for k, v in document["deks"].items()},
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            raise KeysetError("a keyring file is damaged") from None


def kek_place(tenant_uid: str, log_id: bytes) -> bytes:
    """The associated data of a wrapped tenant KEK."""
    return b"tenantry/audit/kek/v1\x00" + tenant_uid.encode() + b"\x00" + log_id


def dek_place(tenant_uid: str, log_id: bytes, dek_id: bytes) -> bytes:
    """The associated data of a wrapped DEK."""
    return b"tenantry/audit/wrap/v1\x00" + tenant_uid.encode() + b"\x00" + log_id + dek_id


class Keyset:
    """One log's keys: opens old DEKs, makes new ones durably."""

    def __init__(
        self, path: Path, keyring: Keyring, provider: KeyProvider, random_bytes: RandomBytes = os.urandom
    ) -> None:
        self._path = path
        self._keyring = keyring
        self._random_bytes = random_bytes
        self._kek = provider.unwrap(keyring.wrapped_kek, kek_place(keyring.tenant_uid, keyring.log_id))

    @classmethod
    def create(
        cls,
        path: Path,
        tenant_uid: str,
        log_id: bytes,
        provider: KeyProvider,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> Keyset:
        """Make a log's keyring with a fresh tenant KEK, durably."""
        wrapped = provider.wrap(random_bytes(KEY_BYTES), kek_place(tenant_uid, log_id))
        keyring = Keyring(tenant_uid, log_id, wrapped)
        make_directory(path.parent)
        replace_file(path, keyring.encode())
        return cls(path, keyring, provider, random_bytes)

    @classmethod
    def load(cls, path: Path, provider: KeyProvider, random_bytes: RandomBytes = os.urandom) -> Keyset:
        """Read a log's keyring.

        Raises:
            KeysetError: missing, damaged, or wrapped under another root.
        """
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise KeysetError("a keyring file is missing") from None
        return cls(path, Keyring.decode(data), provider, random_bytes)

    def new_dek(self) -> DataKey:
        """Make a DEK and write its wrap; it is durable when this returns."""
        dek_id, dek = self._random_bytes(ID_BYTES), self._random_bytes(KEY_BYTES)
        ring = self._keyring
        place = dek_place(ring.tenant_uid, ring.log_id, dek_id)
        ring.wrapped_deks[dek_id] = wrap(dek, self._kek, place, self._random_bytes)
        replace_file(self._path, ring.encode())
        return DataKey(dek, ring.log_id, dek_id)

    def dek(self, dek_id: bytes) -> DataKey:
        """Open a DEK of this log.

        Raises:
            KeysetError: the log has no such DEK, or its wrap does not open.
        """
        ring = self._keyring
        wrapped = ring.wrapped_deks.get(dek_id)
        if wrapped is None:
            raise KeysetError("the log has no such data key")
        dek = unwrap(wrapped, self._kek, dek_place(ring.tenant_uid, ring.log_id, dek_id))
        return DataKey(dek, ring.log_id, dek_id)
