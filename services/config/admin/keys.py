"""Issues, lists and revokes keys. A secret is in the answer that made it and nowhere else."""

from __future__ import annotations

import secrets

from tenantry.config.v1 import config_admin_service_pb2 as pb
from tenantry.config.v1 import credential_pb2, stored_pb2

from services.common.errors import FieldViolation, InvalidArgumentError, NotFoundError
from services.common.tokens import Audience, Claims, TokenIssuer
from services.config.admin.edits import Context, Edits
from services.config.admin.page_tokens import page
from services.config.admin.tenant_config import find_tenant, still_there
from services.config.etcd import keys as etcd_keys
from services.config.etcd.store import Expect
from services.config.intents.change import Change
from services.config.rules.free_text import check_display_name, check_reason
from services.config.rules.known_fields import choices, unknown_violations
from services.config.state.operators import TENANT_ADMIN, Operator, role_name
from services.config.state.records import CredentialRecord
from services.config.state.resources import key_resource, parse_name

DEFAULT_LIFETIME_SECONDS = 90 * 86_400
MAX_LIFETIME_SECONDS = 366 * 86_400
INFERENCE_SCOPE = "inference"
_PARENTS = ("tenants/{tenant}", "operators/{operator}")


class KeyAdmin:
    """The admin RPCs of keys."""

    def __init__(self, edits: Edits, issuer: TokenIssuer) -> None:
        self._edits = edits
        self._issuer = issuer

    async def create(self, request: pb.CreateKeyRequest, context: Context) -> pb.CreateKeyResponse:
        """Issue a key to a tenant's caller or to an operator."""
        operator = self._edits.operator(context, request)
        pattern, (principal,) = parse_name(request.parent, *_PARENTS, field="parent")
        for_tenant = pattern == _PARENTS[0]
        tenant_uid = role_tenant_uid = ""
        if for_tenant:
            tenant_uid = find_tenant(self._edits.state, operator, request.parent, "parent").stored.tenant_uid
        else:
            operator.require_platform()
        expire_seconds = self._check(request.key, request.reason, for_tenant=for_tenant)
        if request.key.role_tenant:
            named = find_tenant(self._edits.state, operator, request.key.role_tenant, "key.role_tenant")
            role_tenant_uid = named.stored.tenant_uid
        key_id = secrets.token_hex(8)
        now = self._edits.now()
        key = credential_pb2.Key(
            name=f"{request.parent}/keys/{key_id}",
            display_name=request.key.display_name,
            scopes=request.key.scopes,
            state=credential_pb2.KEY_STATE_ACTIVE,
            create_time=now,
            role=request.key.role,
            role_tenant=request.key.role_tenant,
        )
        key.expire_time.FromSeconds(expire_seconds)
        stored = stored_pb2.StoredCredential(
            key=key,
            tenant_uid=tenant_uid,
            role_tenant_uid=role_tenant_uid,
            signing_key_id=self._issuer.signing_key_id,
            creator=f"operators/{operator.name}",
            reason=request.reason,
        )
        key.creator, key.reason = stored.creator, stored.reason
        claims = Claims(
            key_id,
            tenant_uid or principal,
            tuple(request.key.scopes),
            expire_seconds,
            role_name(request.key.role),
            role_tenant_uid,
        )
        if request.validate_only:
            return pb.CreateKeyResponse(key=key)
        etcd_key = etcd_keys.credential_key(key_id)
        puts = {etcd_key: stored.SerializeToString()}
        change = Change(operator, "CreateKey", request.parent, request.reason, {"key_id": key_id})

        async def attempt() -> int:
            tenants = [still_there(self._edits.state, uid) for uid in (tenant_uid, role_tenant_uid) if uid]
            return await self._edits.write(change, [Expect(etcd_key, 0), *tenants], puts)

        key.revision = await self._edits.retrying(attempt)
        audience = Audience.INFERENCE if for_tenant else Audience.OPERATOR
        return pb.CreateKeyResponse(
            key=key, secret=self._issuer.issue(audience, claims, int(now.ToSeconds()))
        )

    async def list_page(self, request: pb.ListKeysRequest, context: Context) -> pb.ListKeysResponse:
        """List a principal's keys."""
        operator = self._edits.operator(context, request)
        pattern, (principal,) = parse_name(request.parent, *_PARENTS, field="parent")
        if pattern == _PARENTS[0]:
            uid = find_tenant(self._edits.state, operator, request.parent, "parent").stored.tenant_uid
            found = [record for record in self._records() if record.stored.tenant_uid == uid]
        else:
            operator.require_platform()
            prefix = f"{request.parent}/keys/"
            found = [
                record
                for record in self._records()
                if not record.stored.tenant_uid and record.stored.key.name.startswith(prefix)
            ]
        resources = sorted((_with_origin(r, principal) for r in found), key=lambda key: key.name)
        chosen, token = page(
            resources, lambda key: key.name, request.page_size, request.page_token, "keys:" + request.parent
        )
        return pb.ListKeysResponse(keys=chosen, next_page_token=token)

    async def revoke(self, request: pb.RevokeKeyRequest, context: Context) -> credential_pb2.Key:
        """Revoke a key for good; revoking it again changes nothing."""
        operator = self._edits.operator(context, request)
        return await self._edits.retrying(lambda: self._revoked(request, operator))

    async def _revoked(self, request: pb.RevokeKeyRequest, operator: Operator) -> credential_pb2.Key:
        pattern, (principal, key_id) = parse_name(
            request.name, "tenants/{tenant}/keys/{key}", "operators/{operator}/keys/{key}", field="name"
        )
        record = self._own(operator, pattern, principal, key_id)
        wrong = check_reason(request.reason)
        if wrong:
            raise InvalidArgumentError(wrong)
        if record.stored.key.state == credential_pb2.KEY_STATE_REVOKED:
            return _with_origin(record, principal)
        stored = stored_pb2.StoredCredential()
        stored.CopyFrom(record.stored)
        stored.key.state = credential_pb2.KEY_STATE_REVOKED
        stored.key.revoke_time.CopyFrom(self._edits.now())
        revision = record.mod_revision
        if not request.validate_only:
            etcd_key = etcd_keys.credential_key(key_id)
            expected = [Expect(etcd_key, record.mod_revision)]
            change = Change(operator, "RevokeKey", request.name, request.reason)
            revision = await self._edits.write(change, expected, {etcd_key: stored.SerializeToString()})
        return _with_origin(CredentialRecord(stored, revision), principal)

    def _records(self) -> list[CredentialRecord]:
        return [r for r in self._edits.state.under("credentials/") if isinstance(r, CredentialRecord)]

    def _own(self, operator: Operator, pattern: str, principal: str, key_id: str) -> CredentialRecord:
        record = self._edits.state.credential(key_id)
        if pattern.startswith("tenants/"):
            tenant = operator.require_tenant(self._edits.state.tenant(principal))
            if record is not None and record.stored.tenant_uid == tenant.stored.tenant_uid:
                return record
            raise NotFoundError("no such key")
        operator.require_platform()
        if record is None or record.stored.key.name != f"operators/{principal}/keys/{key_id}":
            raise NotFoundError("no such key")
        return record

    def _check(self, key: credential_pb2.Key, reason: str, *, for_tenant: bool) -> int:
        wrong = unknown_violations(key, "key")
        wrong += check_reason(reason)
        now = int(self._edits.clock.wall_seconds())
        expire = key.expire_time.seconds if key.HasField("expire_time") else now + DEFAULT_LIFETIME_SECONDS
        if not now < expire <= now + MAX_LIFETIME_SECONDS:
            wrong.append(
                FieldViolation(
                    "key.expire_time", f"is not within the next {MAX_LIFETIME_SECONDS // 86_400} days"
                )
            )
        allowed = {INFERENCE_SCOPE} if for_tenant else set()
        if len(key.scopes) > len(allowed) or not set(key.scopes) <= allowed:
            what = f"may hold {INFERENCE_SCOPE} only" if for_tenant else "is for tenants' keys"
            wrong.append(FieldViolation("key.scopes", what))
        wrong += check_display_name(key.display_name, "key.display_name")
        role = role_name(key.role)
        if for_tenant and (key.role or key.role_tenant):
            wrong.append(FieldViolation("key.role", "is for operators' keys"))
        if not for_tenant and not role:
            roles = choices(credential_pb2.OperatorRole.DESCRIPTOR)
            wrong.append(FieldViolation("key.role", f"is missing: {roles}"))
        if not for_tenant and (role == TENANT_ADMIN) is not bool(key.role_tenant):
            wrong.append(FieldViolation("key.role_tenant", "is for the role tenant-admin, which needs it"))
        if wrong:
            raise InvalidArgumentError(wrong)
        return int(expire)


def _with_origin(record: CredentialRecord, principal: str) -> credential_pb2.Key:
    """A key as operators see it: with who issued it and why, which routers are not sent."""
    key = key_resource(record, principal)
    key.creator, key.reason = record.stored.creator, record.stored.reason
    return key
