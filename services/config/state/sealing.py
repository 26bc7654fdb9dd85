"""Seals tenants' config at rest: a root key in a file wraps each tenant's key, which seals its config.

AES-256-GCM with random nonces. The associated data names the tenant, the purpose and what else a value is bound to, so
that a sealed value opens in its own place only. Keys for config and for adapter artifacts are derived separately
(HKDF-SHA-256, RFC 5869).
"""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from services.common.durable_files import read_or_create

KEY_BYTES = 32
_NONCE_BYTES = 12


class SealError(Exception):
    """A sealed value does not open: it has another root key or place, or is damaged."""


def load_root_key(path: Path) -> bytes:
    """Read the root key; at the first start make it, with mode 0400.

    Raises:
        SealError: the file does not hold a key.
    """
    key = read_or_create(path, lambda: os.urandom(KEY_BYTES))
    if len(key) != KEY_BYTES:
        raise SealError(f"the root key file holds {len(key)} bytes, not {KEY_BYTES}")
    return key


def _seal(key: bytes, place: bytes, plaintext: bytes) -> bytes:
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plaintext, place)


def _open(key: bytes, place: bytes, sealed: bytes) -> bytes:
    try:
        return AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], place)
    except (InvalidTag, ValueError):
        raise SealError("a sealed value does not open") from None


class TenantKey:
    """One tenant's keys, in memory."""

    def __init__(self, tenant_uid: str, key: bytes) -> None:
        self._place = b"tenantry/config/v1\x00" + tenant_uid.encode() + b"\x00"
        self._config = _derive(key, b"config")
        self.artifact = _derive(key, b"artifact")
        """Opens the tenant's sealed adapter renditions; sent to routers with the adapter."""

    def seal(self, purpose: str, bound: bytes, plaintext: bytes) -> bytes:
        """Seal config for a purpose, bound to bytes that have to be given again to open it; see `sealed_versions`."""
        return _seal(self._config, self._place + purpose.encode() + b"\x00" + bound, plaintext)

    def open(self, purpose: str, bound: bytes, sealed: bytes) -> bytes:
        """Open a sealed value.

        Raises:
            SealError: it is another tenant's, has another purpose or other bound bytes, or is damaged.
        """
        return _open(self._config, self._place + purpose.encode() + b"\x00" + bound, sealed)


def _derive(key: bytes, purpose: bytes) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=None, info=b"tenantry/" + purpose).derive(
        key
    )


class TenantKeys:
    """Makes and opens tenants' wrapped keys, and derives the service's own."""

    def __init__(self, root_key: bytes) -> None:
        self._root_key = root_key
        self.intent_key = _derive(root_key, b"intent-marks")
        """Authenticates the marks of admin edits."""
        self.known_good_key = _derive(root_key, b"last-known-good")
        """Seals the last known good files."""
        self.statement_seed = _derive(root_key, b"config-statements")
        """Seeds the key that signs snapshot statements; the same for every config service over one etcd."""

    def create(self, tenant_uid: str) -> tuple[TenantKey, bytes]:
        """Make a fresh key; returns it, and its wrapped form for etcd."""
        key = os.urandom(KEY_BYTES)
        return TenantKey(tenant_uid, key), _seal(self._root_key, _wrap_place(tenant_uid), key)

    def open(self, tenant_uid: str, wrapped: bytes) -> TenantKey:
        """Open a wrapped key.

        Raises:
            SealError: it was wrapped under another root key or for another tenant, or is damaged.
        """
        return TenantKey(tenant_uid, _open(self._root_key, _wrap_place(tenant_uid), wrapped))


def _wrap_place(tenant_uid: str) -> bytes:
    return b"tenantry/config-kek/v1\x00" + tenant_uid.encode()
