"""The service's signing keys, made at the first start: for logs and journal, for exports, for reviewers' grants."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.audit.storage.state_directory import StateIncompleteError, is_unused
from services.common.durable_files import make_directory, read_or_create, replace_file
from services.common.tokens import AUDIT_ISSUER, TokenIssuer, new_signing_key_pem

_LOG, _MANIFEST, _GRANTS = "log.ed25519", "manifest.ed25519", "grants.pem"
ROOT_KEK = "root.kek"


@dataclass(frozen=True, slots=True)
class SigningKeys:
    """The private keys, in memory."""

    log: Ed25519PrivateKey
    manifest: Ed25519PrivateKey
    grants: TokenIssuer


def load_signing_keys(folder: Path) -> SigningKeys:
    """Read the keys of a state directory and publish `jwks.json`. Makes keys only where nothing is recorded yet.

    Raises:
        StateIncompleteError: a key or the root KEK is missing in a directory that is in use. A new one would make
            everything recorded so far look like damage.
    """
    make_directory(folder)
    if not is_unused(folder.parent):
        lost = [name for name in (_LOG, _MANIFEST, _GRANTS, ROOT_KEK) if not (folder / name).exists()]
        if lost:
            raise StateIncompleteError(f"{folder} lacks {', '.join(lost)}: restore what was there")
    grants = TokenIssuer.from_pem(read_or_create(folder / _GRANTS, new_signing_key_pem), AUDIT_ISSUER)
    log, manifest = (
        Ed25519PrivateKey.from_private_bytes(
            read_or_create(folder / name, lambda: Ed25519PrivateKey.generate().private_bytes_raw())
        )
        for name in (_LOG, _MANIFEST)
    )
    jwks = grants.jwks().encode()
    published = folder.parent / "jwks.json"
    if not published.exists() or published.read_bytes() != jwks:
        replace_file(published, jwks, mode=0o644)
    return SigningKeys(log, manifest, grants)
