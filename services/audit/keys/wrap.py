"""Wraps keys with AES-256-GCM. The associated data binds a wrap to its place, so that it opens nowhere else.

A place names tenant, log and key, and the version of the key above it. A wrap that claims another version does not
open.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from services.audit.keys.envelope import KEY_BYTES, TAG_BYTES, RandomBytes

_NONCE_BYTES = 12
WRAP_BYTES = _NONCE_BYTES + KEY_BYTES + TAG_BYTES
VERSION_BYTES = 4


class KeysetError(Exception):
    """A keyring is missing, damaged, of a version this service does not know, or wrapped under other keys."""


def wrap(key: bytes, under: bytes, associated_data: bytes, random_bytes: RandomBytes) -> bytes:
    """Wrap a key: nonce ‖ AES-256-GCM(key)."""
    nonce = random_bytes(_NONCE_BYTES)
    return nonce + AESGCM(under).encrypt(nonce, key, associated_data)


def unwrap(wrapped: bytes, under: bytes, associated_data: bytes) -> bytes:
    """Open a wrap and return the key.

    Raises:
        KeysetError: another key, another place, or damage.
    """
    try:
        return AESGCM(under).decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], associated_data)
    except (InvalidTag, ValueError):
        raise KeysetError("a wrapped key does not open") from None


def kek_place(tenant_uid: str, log_id: bytes, root_version: int, kek_version: int) -> bytes:
    """The associated data of a wrapped tenant KEK."""
    return b"".join(
        (
            b"tenantry/audit/kek/v1\x00",
            tenant_uid.encode() + b"\x00",
            log_id,
            root_version.to_bytes(VERSION_BYTES, "big"),
            kek_version.to_bytes(VERSION_BYTES, "big"),
        )
    )


def dek_place(tenant_uid: str, log_id: bytes, kek_version: int, dek_id: bytes) -> bytes:
    """The associated data of a wrapped DEK."""
    return b"".join(
        (
            b"tenantry/audit/wrap/v1\x00",
            tenant_uid.encode() + b"\x00",
            log_id,
            kek_version.to_bytes(VERSION_BYTES, "big"),
            dek_id,
        )
    )
