"""Signed statements of a config service about a config: its etcd cluster, its revision, when it was current.

Ed25519 (RFC 8032) over a prefix and canonical JSON (RFC 8785); docs/formats/last-known-good.md specifies both.
"""

from __future__ import annotations

import hmac
import json
from dataclasses import asdict, dataclass

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_PREFIX = b"tenantry-config-statement-v1\n"


class NotSignedError(Exception):
    """The signer did not make this statement. The text says why."""


@dataclass(frozen=True, slots=True)
class Statement:
    """States that a config was in force."""

    cluster_id: str
    """Id of the etcd cluster, in hex."""
    current_unix_ms: int
    """When it was last known to be the newest, by the wall clock: at etcd's last sign of life."""
    revision: int
    state_sha256: str
    """`state_digest` of all items of the config."""


@dataclass(frozen=True, slots=True)
class SignedStatement:
    """A statement as it is sent and stored."""

    text: bytes
    signature: bytes
    signer: bytes
    """The public key that is claimed to have signed it."""


class StatementSigner:
    """Signs with a key made from a seed."""

    def __init__(self, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public_key = self._key.public_key().public_bytes_raw()

    def sign(self, statement: Statement) -> SignedStatement:
        """Sign a statement."""
        text = rfc8785.dumps(asdict(statement))
        return SignedStatement(text, self._key.sign(_PREFIX + text), self.public_key)


def verified(signed: SignedStatement, signer: bytes) -> Statement:
    """Verify a statement and return it. Nothing is parsed before the signature is checked.

    Raises:
        NotSignedError: another key signed it, or it was changed.
    """
    if not hmac.compare_digest(signed.signer, signer):
        raise NotSignedError("is signed by another config service")
    try:
        key = Ed25519PublicKey.from_public_bytes(signer)
        key.verify(signed.signature, _PREFIX + signed.text)  # proven: statement-signature
    except (InvalidSignature, ValueError):
        raise NotSignedError("its signature does not verify") from None
    statement = _parsed(signed.text)
    if statement is None:
        raise NotSignedError("what is signed is not a statement of version 1")
    return statement


def _parsed(text: bytes) -> Statement | None:
    try:
        fields = json.loads(text)
        statement = Statement(**fields)
        is_canonical = bool(rfc8785.dumps(fields) == text)
    except (ValueError, TypeError):
        return None
    texts = (statement.cluster_id, statement.state_sha256)
    numbers = (statement.revision, statement.current_unix_ms)
    typed = all(isinstance(text, str) for text in texts) and all(type(number) is int for number in numbers)
    return statement if is_canonical and typed else None
