"""Sealed artifacts: one service seals them and another opens them.

A sealed artifact is `0x01 ‖ nonce (12) ‖ AES-256-GCM ciphertext and tag` (NIST SP 800-38D). The associated
data binds it to its tenant and to the digest of its content, so that neither can be exchanged for another.
"""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32

_FORMAT = b"\x01"
_NONCE_BYTES = 12
_TAG_BYTES = 16
_CONTEXT = b"tenantry/artifact/v1"


class SealedArtifactError(Exception):
    """The bytes are not a sealed artifact, are damaged, or were sealed for another tenant or content."""


def artifact_associated_data(tenant_uid: str, rendition_sha256: str) -> bytes:
    """The associated data of a tenant's sealed rendition. Unambiguous, because a digest has 64 hex digits."""
    if len(rendition_sha256) != 64:
        raise ValueError("a rendition's digest is a SHA-256 in lowercase hex")
    return _CONTEXT + tenant_uid.encode() + rendition_sha256.encode()


def seal(key: bytes, associated_data: bytes, plaintext: bytes) -> bytes:
    """Seal under a 32-byte key with a random nonce. One key may seal 2^32 artifacts.

    Raises:
        ValueError: the key is not 32 bytes.
    """
    nonce = os.urandom(_NONCE_BYTES)
    return _FORMAT + nonce + _cipher(key).encrypt(nonce, plaintext, associated_data)


def open_sealed(key: bytes, associated_data: bytes, sealed: bytes) -> bytes:
    """Open a sealed artifact.

    Raises:
        SealedArtifactError: another format, key or associated data, or damage.
        ValueError: the key is not 32 bytes.
    """
    if len(sealed) < 1 + _NONCE_BYTES + _TAG_BYTES or sealed[:1] != _FORMAT:
        raise SealedArtifactError("not a sealed artifact of format 1")
    nonce, ciphertext = sealed[1 : 1 + _NONCE_BYTES], memoryview(sealed)[1 + _NONCE_BYTES :]
    try:
        return _cipher(key).decrypt(nonce, ciphertext, associated_data)
    except InvalidTag:
        raise SealedArtifactError("the artifact does not open under this key and associated data") from None


def _cipher(key: bytes) -> AESGCM:
    if len(key) != KEY_BYTES:
        raise ValueError("a sealing key is 32 bytes")
    return AESGCM(key)
