"""Two tenants and the admin of one of them: what an attempt at the other's things answers, and whether it tells.

Every attempt is made twice: with what the other tenant really has, and with the same things of nobody. Whatever
differs between the two answers, what was sent aside, tells that the other tenant is there.
"""

from __future__ import annotations

import base64
import dataclasses
import random
import string
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from tenantry.config.v1 import config_admin_service_pb2 as pb
from tenantry.config.v1 import credential_pb2, pool_pb2, tenant_pb2

OURS, THEIRS = "acme", "globex"
PROMPT, DISPLAY_NAME = "the-prompt-of-globex", "The Display Name Of Globex"
VERSIONS = 7
AsOperator = Callable[[str, Any], Awaitable[Any]]
"""Method and request, as the platform-admin; raises when refused."""
Outcome = tuple[str, bytes]
"""`answer` with the message, or `error` with the status: its bytes."""
AsAdmin = Callable[[str, Any], Awaitable[Outcome]]
"""Method and request, as the tenant-admin of `OURS`."""


@dataclass(frozen=True, slots=True)
class Target:
    """What an attempt names of another tenant."""

    tenant_id: str
    tenant_uid: str
    key_id: str
    adapter_id: str
    operator: str
    operator_key_id: str
    pool_id: str
    display_name: str
    etag: str
    tenants_token: str
    keys_token: str
    adapters_token: str
    versions_token: str


def nobodys(target: Target, rng: random.Random) -> Target:
    """The same of nobody: values of the same form, which are nowhere."""
    invented = {
        field.name: _invented(getattr(target, field.name), field.name, rng)
        for field in dataclasses.fields(target)
        if not field.name.endswith(("_token", "etag"))
    }
    changed = dataclasses.replace(target, **invented)
    # A token names what its list holds.
    tokens = {
        name: _retold(getattr(target, name), target, changed)
        for name in ("tenants_token", "keys_token", "adapters_token", "versions_token")
    }
    return dataclasses.replace(changed, **tokens)


def _invented(value: str, name: str, rng: random.Random) -> str:
    # Names stay behind ours in every list.
    letters = "abcdef" if name.endswith(("uid", "key_id")) else "ghijklmn"
    return "".join(
        rng.choice(letters if one.isalpha() else string.digits) if one.isalnum() else one for one in value
    )


def _retold(token: str, old: Target, new: Target) -> str:
    text = base64.urlsafe_b64decode(token).decode()
    for before, after in _pairs(old, new):
        text = text.replace(before, after)
    return base64.urlsafe_b64encode(text.encode()).decode()


def _pairs(old: Target, new: Target) -> list[tuple[str, str]]:
    names = ("tenant_uid", "key_id", "operator_key_id", "adapter_id", "pool_id", "operator", "tenant_id")
    return [(getattr(old, name), getattr(new, name)) for name in names]


@dataclass(frozen=True, slots=True)
class World:
    """Both tenants as they are, and what must not be told."""

    theirs: Target
    nobody: Target
    our_etag: str
    our_key: str
    """The tenant-admin's."""
    secrets: frozenset[bytes]


async def build(
    call: AsOperator, register: Callable[[str, str], Awaitable[Any]], rng: random.Random
) -> World:
    """Make both tenants; there is a base model `models/m` and a shared pool already.

    Args:
        call: as the platform-admin.
        register: an adapter for a tenant id, under an adapter id.
        rng: invents what nobody has.
    """
    ours = await _tenant(call, OURS, "ours")
    theirs = await _tenant(call, THEIRS, DISPLAY_NAME)
    shared = (await call("ListPools", pb.ListPoolsRequest())).pools[0]
    pool = pool_pb2.Pool()
    pool.CopyFrom(shared)
    pool.etag, pool.dedicated_to = "", theirs.name
    pool.endpoints[0].target = "globex-own.internal:8001"
    await call("CreatePool", pb.CreatePoolRequest(pool_id="globex-own", pool=pool))
    theirs.config.pool = "pools/globex-own"
    for number in range(VERSIONS - 1):
        theirs.config.system_prompt = f"{PROMPT}-{number}"
        theirs = await call("UpdateTenant", pb.UpdateTenantRequest(tenant=theirs, reason=f"{PROMPT}-why"))
    for adapter_id in ("globex-voice", "globex-words"):
        adapter = await register(THEIRS, adapter_id)
    keys = [await call("CreateKey", pb.CreateKeyRequest(parent=theirs.name)) for _ in range(3)]
    bob = await _tenant_admin(call, "globex-bob", theirs.name)
    our_admin = await _tenant_admin(call, "alice", ours.name)
    key_ids = [made.key.name.rsplit("/", 1)[1] for made in keys]
    bob_key = bob.key.name.rsplit("/", 1)[1]
    target = Target(
        tenant_id=THEIRS,
        tenant_uid=theirs.tenant_uid,
        key_id=key_ids[0],
        adapter_id="globex-voice",
        operator="globex-bob",
        operator_key_id=bob_key,
        pool_id="globex-own",
        display_name=DISPLAY_NAME,
        etag=theirs.etag,
        tenants_token=(await call("ListTenants", pb.ListTenantsRequest(page_size=1))).next_page_token,
        keys_token=(
            await call("ListKeys", pb.ListKeysRequest(parent=theirs.name, page_size=1))
        ).next_page_token,
        adapters_token=(
            await call("ListAdapters", pb.ListAdaptersRequest(parent=theirs.name, page_size=1))
        ).next_page_token,
        versions_token=(
            await call("ListTenantVersions", pb.ListTenantVersionsRequest(parent=theirs.name, page_size=1))
        ).next_page_token,
    )
    told = {theirs.tenant_uid, theirs.config_sha256, PROMPT, DISPLAY_NAME, *key_ids, bob_key, "globex"}
    told |= {adapter.versions[0].renditions[0].sha256, f'"{theirs.revision}"'}
    secrets = frozenset(text.encode() for text in told)
    return World(target, nobodys(target, rng), ours.etag, our_admin.secret, secrets)


async def _tenant(call: AsOperator, tenant_id: str, display_name: str) -> tenant_pb2.Tenant:
    config = tenant_pb2.TenantConfig(
        models=[tenant_pb2.ModelAlias(alias="default", base_model="models/m")], system_prompt=PROMPT
    )
    if tenant_id == OURS:
        config.system_prompt = "ours"
    tenant = tenant_pb2.Tenant(config=config, display_name=display_name)
    made: tenant_pb2.Tenant = await call(
        "CreateTenant", pb.CreateTenantRequest(tenant_id=tenant_id, tenant=tenant)
    )
    return made


async def _tenant_admin(call: AsOperator, operator: str, tenant: str) -> pb.CreateKeyResponse:
    key = credential_pb2.Key(role=credential_pb2.OPERATOR_ROLE_TENANT_ADMIN, role_tenant=tenant)
    made: pb.CreateKeyResponse = await call(
        "CreateKey", pb.CreateKeyRequest(parent=f"operators/{operator}", key=key)
    )
    return made


def tells(world: World, sent: Any, real: Outcome, invented: Outcome) -> str | None:
    """What the answer to an attempt tells of the other tenant; None for nothing."""
    # What the caller sent it knows already, in whatever letters.
    known = bytes(sent.SerializeToString()).lower()
    for secret in sorted(world.secrets):
        if secret.lower() not in known and secret.lower() in real[1].lower():
            return f"holds {secret.decode()!r}"
    if real[0] != invented[0]:
        return f"{real[0]} where nobody's is {invented[0]}"
    if real[1] != _sent_back(world, invented[1]):
        return "other bytes than for nobody's"
    return None


def _sent_back(world: World, outcome: bytes) -> bytes:
    """An answer about nobody's things, as it would read about the other tenant's."""
    for theirs, nobodys_ in _pairs(world.theirs, world.nobody):
        outcome = outcome.replace(nobodys_.encode(), theirs.encode())
    return outcome
