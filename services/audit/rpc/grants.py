"""Reviewers' grants. A grant lets its bearer read one log for a time; the audit service's own key signs it."""

from __future__ import annotations

import re
import secrets

from services.common.clock import Clock
from services.common.errors import NotFoundError, UnauthenticatedError
from services.common.tokens import Audience, Claims, TokenIssuer, TokenVerifier

MAX_GRANT_SECONDS = 7 * 86_400
_NAME = re.compile(r"tenants/([A-Za-z0-9_-]{1,64})/auditLog")


def issue_grant(issuer: TokenIssuer, tenant_uid: str, ttl_seconds: int, clock: Clock) -> str:
    """Sign a grant for one log.

    Args:
        issuer: holds the key that signs grants.
        tenant_uid: names the log; the operator log has a name of its own, `OPERATOR_LOG_UID`.
        ttl_seconds: how long the grant works, 1 to `MAX_GRANT_SECONDS`.
        clock: says when it begins.

    Raises:
        ValueError: the lifetime is out of bounds.
    """
    if not 0 < ttl_seconds <= MAX_GRANT_SECONDS:
        raise ValueError(f"a grant lasts 1 to {MAX_GRANT_SECONDS} seconds, not {ttl_seconds}")
    now = int(clock.wall_seconds())
    claims = Claims(secrets.token_hex(8), tenant_uid, ("review",), now + ttl_seconds, "", "")
    return issuer.issue(Audience.REVIEW, claims, now)


class GrantCheck:
    """Lets a reviewer read the log that its grant names, and no other."""

    def __init__(self, verifier: TokenVerifier) -> None:
        self._verifier = verifier

    def tenant_uid(self, authorization: str | None, name: str) -> tuple[str, str]:
        """Return the tenant_uid of the log that a request may read, and the grant's id.

        Raises:
            UnauthenticatedError: no valid grant.
            NotFoundError: the grant names another log, or no log has that name. Both look the same.
        """
        claims = self._verifier.verify(authorization)
        if "review" not in claims.scopes:
            raise UnauthenticatedError
        match = _NAME.fullmatch(name)
        if match is None or match[1] != claims.subject:
            raise NotFoundError("no such audit log")
        return claims.subject, claims.key_id
