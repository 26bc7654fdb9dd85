"""The first start: a token signing key, its published half, and a key for the first platform-admin."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from tenantry.config.v1 import credential_pb2, stored_pb2

from services.common.clock import Clock
from services.common.tokens import CONFIG_ISSUER, Audience, Claims, TokenIssuer, new_signing_key_pem
from services.config import layout
from services.config.etcd.client import EtcdClient, Expect
from services.config.operators import PLATFORM_ADMIN

OPERATOR = "first"
OPERATOR_SECONDS = 366 * 86_400


def load_issuer(state_dir: Path) -> TokenIssuer:
    """Read the token signing key, making it at the first start, and publish `jwks.json`."""
    state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = state_dir / "tokens.pem"
    if not path.exists():
        _write_private(path, new_signing_key_pem(), 0o400)
    issuer = TokenIssuer.from_pem(path.read_bytes(), CONFIG_ISSUER)
    published = state_dir / "jwks.json"
    if not published.exists() or published.read_text() != issuer.jwks():
        _write_private(published, issuer.jwks().encode(), 0o644)
    return issuer


async def ensure_first_operator(state_dir: Path, issuer: TokenIssuer, etcd: EtcdClient, clock: Clock) -> None:
    """Make the first platform-admin's key if there is none: recorded in etcd, its secret in a file of mode 0600.

    Raises:
        StoreUnavailableError: etcd does not answer.
    """
    path = state_dir / "operator.key"
    if path.exists():
        return
    now = int(clock.wall_seconds())
    key_id = secrets.token_hex(8)
    key = credential_pb2.Key(
        name=f"operators/{OPERATOR}/keys/{key_id}",
        display_name="made at the first start",
        state=credential_pb2.KEY_STATE_ACTIVE,
        role=credential_pb2.OPERATOR_ROLE_PLATFORM_ADMIN,
    )
    key.create_time.FromSeconds(now)
    key.expire_time.FromSeconds(now + OPERATOR_SECONDS)
    stored = stored_pb2.StoredCredential(key=key)
    etcd_key = layout.credential_key(key_id)
    await etcd.write([Expect(etcd_key, 0)], {etcd_key: stored.SerializeToString()})
    claims = Claims(key_id, OPERATOR, (), now + OPERATOR_SECONDS, PLATFORM_ADMIN, "")
    _write_private(path, issuer.issue(Audience.OPERATOR, claims, now).encode() + b"\n", 0o600)


def _write_private(path: Path, data: bytes, mode: int) -> None:
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(scratch, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)
