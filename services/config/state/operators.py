"""Operators: verifies their keys, and decides what their roles allow."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tenantry.config.v1 import credential_pb2

from services.common.errors import NotFoundError, PermissionDeniedError, UnauthenticatedError
from services.common.tokens import TokenVerifier
from services.config.state.config_state import ConfigState
from services.config.state.records import TenantRecord

PLATFORM_ADMIN, TENANT_ADMIN = "platform-admin", "tenant-admin"
_ROLES = {
    credential_pb2.OPERATOR_ROLE_PLATFORM_ADMIN: PLATFORM_ADMIN,
    credential_pb2.OPERATOR_ROLE_TENANT_ADMIN: TENANT_ADMIN,
}
NO_TENANT = "no such tenant"


def role_name(role: credential_pb2.OperatorRole.ValueType) -> str:
    """The name of a role in tokens; empty for none."""
    return _ROLES.get(role, "")


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator whose key was verified."""

    key_id: str
    name: str
    role: str
    role_tenant_uid: str

    def require_platform(self) -> None:
        """Let platform-admins pass.

        Raises:
            PermissionDeniedError: the operator has another role.
        """
        if self.role != PLATFORM_ADMIN:
            raise PermissionDeniedError("this needs the role platform-admin")

    def require_tenant(self, record: TenantRecord | None) -> TenantRecord:
        """Return the tenant, if this operator may see it.

        Raises:
            NotFoundError: it does not exist or is not this operator's: the two look the same.
        """
        if record is None or not self.may_see(record):
            raise NotFoundError(NO_TENANT)
        return record

    def may_see(self, record: TenantRecord) -> bool:
        """Whether this operator may know of a tenant."""
        return self.role == PLATFORM_ADMIN or record.stored.tenant_uid == self.role_tenant_uid


class OperatorCheck:
    """Verifies operators' keys: the signature, then the key's record and its role."""

    def __init__(self, verifier: TokenVerifier, state: Callable[[], ConfigState]) -> None:
        self._verifier = verifier
        self._state = state

    def operator(self, metadata: Iterable[tuple[str, str | bytes]] | None) -> Operator:
        """Verify the key of a call.

        Raises:
            UnauthenticatedError: the key is missing or refused, with the same text for every cause but the header's
                form, which has its own.
        """
        sent = [value for name, value in metadata or () if name == "authorization"]
        if len(sent) != 1:
            raise UnauthenticatedError
        claims = self._verifier.verify(str(sent[0]))
        record = self._state().credential(claims.key_id)
        if record is None or record.stored.tenant_uid:
            raise UnauthenticatedError
        key = record.stored.key
        same_role = (
            role_name(key.role) == claims.role and record.stored.role_tenant_uid == claims.role_tenant_uid
        )
        if key.state != credential_pb2.KEY_STATE_ACTIVE or not same_role or not claims.role:
            raise UnauthenticatedError
        return Operator(claims.key_id, claims.subject, claims.role, claims.role_tenant_uid)
