"""Makes what a first start lacks: a token signing key, its public half, and a key of a platform-admin."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from pathlib import Path

from tenantry.config.v1 import credential_pb2, stored_pb2

from services.common.backoff import Backoff
from services.common.clock import Clock
from services.common.durable_files import make_directory, read_or_create, replace_file
from services.common.errors import UnavailableError
from services.common.tokens import CONFIG_ISSUER, Audience, Claims, TokenIssuer, new_signing_key_pem
from services.config.etcd import keys as etcd_keys
from services.config.etcd.store import Expect
from services.config.intents.change import Change
from services.config.intents.transactions import Intents
from services.config.state.config_state import ConfigState
from services.config.state.current_state import CurrentState
from services.config.state.operators import PLATFORM_ADMIN, Operator
from services.config.state.records import CredentialRecord

OPERATOR = "first"
OPERATOR_SECONDS = 366 * 86_400


def load_issuer(state_dir: Path) -> TokenIssuer:
    """Read the token signing key, or make it at the first start; publish its public half as `jwks.json`."""
    make_directory(state_dir)
    issuer = TokenIssuer.from_pem(
        read_or_create(state_dir / "tokens.pem", new_signing_key_pem), CONFIG_ISSUER
    )
    published = state_dir / "jwks.json"
    if not published.exists() or published.read_text() != issuer.jwks():
        replace_file(published, issuer.jwks().encode(), mode=0o644)
    return issuer


@dataclass(frozen=True, slots=True)
class FirstOperator:
    """Ensures that some platform-admin's key opens the admin service."""

    state_dir: Path
    issuer: TokenIssuer
    current: CurrentState
    intents: Intents
    clock: Clock

    async def ensure(self) -> None:
        """Issue a key where there is none; returns once it is in force."""
        if self._is_missing():
            # A config from a file may lack newer operators.
            await self.current.live.wait()
        if not self._is_missing():
            return
        credential = issue_first_operator(self.state_dir, self.issuer, self.clock)
        key_id = credential.key.name.rsplit("/", 1)[1]
        backoff = Backoff(0.1, 2.0)
        while True:
            try:
                await self._record(key_id, credential)
            except UnavailableError:
                await asyncio.sleep(backoff.next_delay_seconds())
            else:
                break
        await self.current.until(lambda state: state.credential(key_id) is not None)

    def _is_missing(self) -> bool:
        return not has_platform_admin(self.current.state, self.issuer, self.clock)

    async def _record(self, key_id: str, credential: stored_pb2.StoredCredential) -> None:
        etcd_key, operator = etcd_keys.credential_key(key_id), Operator("", OPERATOR, PLATFORM_ADMIN, "")
        change = Change(
            operator, "CreateKey", f"operators/{OPERATOR}", "no platform-admin's key", {"key_id": key_id}
        )
        # None means that an earlier attempt wrote the same key and its answer was lost.
        await self.intents.write(change, [Expect(etcd_key, 0)], {etcd_key: credential.SerializeToString()})


def issue_first_operator(state_dir: Path, issuer: TokenIssuer, clock: Clock) -> stored_pb2.StoredCredential:
    """Make a platform-admin's key and write its secret to `operator.key`, mode 0600; returns its record."""
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
    claims = Claims(key_id, OPERATOR, (), now + OPERATOR_SECONDS, PLATFORM_ADMIN, "")
    secret = issuer.issue(Audience.OPERATOR, claims, now)
    replace_file(state_dir / "operator.key", secret.encode() + b"\n")
    return stored_pb2.StoredCredential(key=key, signing_key_id=issuer.signing_key_id)


def has_platform_admin(state: ConfigState, issuer: TokenIssuer, clock: Clock) -> bool:
    """Whether a platform-admin's key still opens the admin service; keys from before a rotation do not."""
    return any(
        isinstance(record, CredentialRecord)
        and record.stored.key.role == credential_pb2.OPERATOR_ROLE_PLATFORM_ADMIN
        and record.stored.key.state == credential_pb2.KEY_STATE_ACTIVE
        and record.stored.signing_key_id == issuer.signing_key_id
        and record.stored.key.expire_time.seconds > clock.wall_seconds()
        for record in state.under("credentials/")
    )
