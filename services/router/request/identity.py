"""Identifies callers: a verified key, looked up in the snapshot; never a field or header that clients choose. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from services.common.errors import Error, FailedPreconditionError, Reason, UnauthenticatedError
from services.common.tokens import TokenVerifier
from services.router.snapshot.model import Snapshot, Tenant

_SCOPE = "inference"


@dataclass(frozen=True, slots=True)
class Caller:
    """A known caller and its tenant's rules."""

    tenant: Tenant
    key_id: str


def identify(
    verifier: TokenVerifier, snapshot: Snapshot, authorization: str | None, now_wall_seconds: float
) -> Caller:
    """Identify the caller.

    Raises:
        UnauthenticatedError: the key is refused, with the same text for every cause but the header's form, which has
            its own.
        FailedPreconditionError: the key is good and its tenant suspended.
    """
    claims = verifier.verify(authorization)
    key = snapshot.keys.get(claims.key_id)
    if key is None:
        raise UnauthenticatedError
    if not key.active:
        raise UnauthenticatedError  # proven: revoked-key
    if key.expire_seconds <= now_wall_seconds:
        raise UnauthenticatedError  # proven: expired-key
    # The token says which key it is; everything else it says must be what the record says.
    if key.tenant_uid != claims.subject:
        raise UnauthenticatedError  # proven: key-of-another-tenant
    if not key.allows_inference or (claims.scopes and _SCOPE not in claims.scopes):
        raise UnauthenticatedError  # proven: key-of-another-scope
    tenant = snapshot.tenants.get(key.tenant_uid)
    if tenant is None:
        raise UnauthenticatedError
    if not tenant.active:
        raise suspended()
    return Caller(tenant, key.key_id)


def refusal_of(snapshot: Snapshot, tenant_uid: str, key_id: str) -> Error | None:
    """Why a request that was identified under an earlier snapshot may not go on; None if it may.

    A key that expires meanwhile still ends what was begun with it.
    """
    key, tenant = snapshot.keys.get(key_id), snapshot.tenants.get(tenant_uid)
    if key is None or not key.active or tenant is None:
        return UnauthenticatedError()
    return None if tenant.active else suspended()


def suspended() -> FailedPreconditionError:
    """The refusal of a tenant that is suspended."""
    return FailedPreconditionError("the tenant is suspended", reason=Reason.TENANT_SUSPENDED)
