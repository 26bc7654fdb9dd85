"""What a tenant-admin may try to learn or change of another tenant: a list without end, the same for each seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from tenantry.config.v1 import config_admin_service_pb2 as pb
from tenantry.config.v1 import credential_pb2, pool_pb2, tenant_pb2

from tests.fakes.foreign_names import name_of, token_of
from tests.fakes.two_tenants import OURS, Target

Build = Callable[[Target], Any]


@dataclass(frozen=True, slots=True)
class Attempt:
    """A call, made of what it names: with the other tenant's things, and with nobody's."""

    method: str
    build: Build
    adapter_header: bool = False
    """Whether what is built is the first message of an upload, the whole of it for one that is refused."""


def _config(**changes: Any) -> tenant_pb2.TenantConfig:
    alias = tenant_pb2.ModelAlias(alias="default", base_model="models/m", adapter=changes.pop("adapter", ""))
    return tenant_pb2.TenantConfig(models=[alias], **changes)


def attempts(seed: int) -> Iterator[Attempt]:
    """Attempts without end."""
    rng = random.Random(seed)
    while True:
        for make in _MAKERS:
            yield make(rng)


def _get(rng: random.Random) -> Attempt:
    name, method = name_of(rng), rng.choice(("GetTenant", "GetTenantUsage"))
    return Attempt(method, lambda target: getattr(pb, f"{method}Request")(name=name(target)))


def _list_tenants(rng: random.Random) -> Attempt:
    terms: tuple[Callable[[Target], str], ...] = (
        lambda _target: "state = ACTIVE",
        lambda target: f'pool = "pools/{target.pool_id}"',
        lambda target: f'display_name = "{target.display_name}"',
        lambda target: f'display_name : "{target.display_name[4:9]}"',
        lambda target: f'name = "tenants/{target.tenant_id}"',
    )
    chosen = rng.sample(terms, rng.randint(0, 2))
    token, size = token_of(rng) if rng.random() < 0.6 else None, rng.choice((0, 1, 1000))
    return Attempt(
        "ListTenants",
        lambda target: pb.ListTenantsRequest(
            filter=" AND ".join(term(target) for term in chosen),
            page_token=token(target) if token else "",
            page_size=size,
        ),
    )


def _update(rng: random.Random) -> Attempt:
    name, masked, own_etag, only_check = name_of(rng), rng.random() < 0.5, rng.random() < 0.5, _flag(rng)
    paths = [rng.choice(("*", "config", "config.system_prompt", "display_name"))] if masked else []

    def build(target: Target) -> Any:
        etag = target.etag if own_etag else '"1"'
        tenant = tenant_pb2.Tenant(name=name(target), etag=etag, config=_config(system_prompt="taken over"))
        return pb.UpdateTenantRequest(
            tenant=tenant, update_mask=FieldMask(paths=paths), validate_only=only_check
        )

    return Attempt("UpdateTenant", build)


def _create(rng: random.Random) -> Attempt:
    only_check = _flag(rng)

    def build(target: Target) -> Any:
        tenant = tenant_pb2.Tenant(config=_config(system_prompt="imported"))
        return pb.CreateTenantRequest(tenant_id=target.tenant_id, tenant=tenant, validate_only=only_check)

    return Attempt("CreateTenant", build)


def _borrow(rng: random.Random) -> Attempt:
    """Our own config, naming what is the other's."""
    what, dedicated = rng.choice(("pool", "adapter", "both")), rng.random() < 0.3

    def build(target: Target) -> Any:
        config = _config(adapter=target.adapter_id if what != "pool" else "")
        if what != "adapter":
            config.pool = f"pools/{target.pool_id}"
        if dedicated:
            config.isolation_tier = tenant_pb2.ISOLATION_TIER_DEDICATED
        # Never the etag in force, so that nothing is changed even where nothing is found wrong.
        tenant = tenant_pb2.Tenant(name=f"tenants/{OURS}", etag="OURS", config=config)
        return pb.UpdateTenantRequest(tenant=tenant, validate_only=True)

    return Attempt("UpdateTenant", build)


def _state(rng: random.Random) -> Attempt:
    name, only_check, with_etag = name_of(rng), _flag(rng), _flag(rng)
    method = rng.choice(("SuspendTenant", "ResumeTenant", "DeleteTenant"))
    return Attempt(
        method,
        lambda target: getattr(pb, f"{method}Request")(
            name=name(target), etag=target.etag if with_etag else "", validate_only=only_check
        ),
    )


def _versions(rng: random.Random) -> Attempt:
    name = name_of(rng) if rng.random() < 0.7 else lambda _target: f"tenants/{OURS}"
    token = token_of(rng) if rng.random() < 0.5 else None
    return Attempt(
        "ListTenantVersions",
        lambda target: pb.ListTenantVersionsRequest(
            parent=name(target), page_size=1, page_token=token(target) if token else ""
        ),
    )


def _version(rng: random.Random) -> Attempt:
    name, number = name_of(rng), rng.choice((0, 1, 2, 7, 8, 10**12))
    method = rng.choice(("GetTenantVersion", "DiffTenantVersions", "RollbackTenant"))

    def build(target: Target) -> Any:
        if method == "GetTenantVersion":
            return pb.GetTenantVersionRequest(name=f"{name(target)}/versions/{number}")
        if method == "DiffTenantVersions":
            return pb.DiffTenantVersionsRequest(name=name(target), before_version=1, after_version=number)
        return pb.RollbackTenantRequest(name=name(target), version=number, etag=target.etag)

    return Attempt(method, build)


def _keys(rng: random.Random) -> Attempt:
    of_operator, name = rng.random() < 0.3, name_of(rng)
    token = token_of(rng) if rng.random() < 0.5 else None
    ours = rng.random() < 0.3

    def build(target: Target) -> Any:
        parent = f"operators/{target.operator}" if of_operator else name(target)
        return pb.ListKeysRequest(
            parent=f"tenants/{OURS}" if ours else parent, page_token=token(target) if token else ""
        )

    return Attempt("ListKeys", build)


def _new_key(rng: random.Random) -> Attempt:
    name, of_operator, only_check = name_of(rng), rng.random() < 0.4, _flag(rng)

    def build(target: Target) -> Any:
        if not of_operator:
            return pb.CreateKeyRequest(parent=name(target), validate_only=only_check)
        role = credential_pb2.OPERATOR_ROLE_TENANT_ADMIN
        key = credential_pb2.Key(role=role, role_tenant=f"tenants/{target.tenant_id}")
        return pb.CreateKeyRequest(parent=f"operators/{target.operator}", key=key, validate_only=only_check)

    return Attempt("CreateKey", build)


def _revoke(rng: random.Random) -> Attempt:
    where, name = rng.choice(("theirs", "ours", "operator")), name_of(rng)

    def build(target: Target) -> Any:
        parent = {"theirs": name(target), "ours": f"tenants/{OURS}"}.get(where)
        if parent is None:
            return pb.RevokeKeyRequest(name=f"operators/{target.operator}/keys/{target.operator_key_id}")
        return pb.RevokeKeyRequest(name=f"{parent}/keys/{target.key_id}")

    return Attempt("RevokeKey", build)


def _adapters(rng: random.Random) -> Attempt:
    name, listed, ours = name_of(rng), _flag(rng), rng.random() < 0.3
    token = token_of(rng) if rng.random() < 0.5 else None

    def build(target: Target) -> Any:
        parent = f"tenants/{OURS}" if ours else name(target)
        if not listed:
            return pb.GetAdapterRequest(name=f"{parent}/adapters/{target.adapter_id}")
        return pb.ListAdaptersRequest(parent=parent, page_token=token(target) if token else "")

    return Attempt("ListAdapters" if listed else "GetAdapter", build)


def _upload(rng: random.Random) -> Attempt:
    name, only_check = name_of(rng), _flag(rng)
    return Attempt(
        "RegisterAdapter",
        lambda target: pb.AdapterHeader(
            parent=name(target),
            adapter_id=target.adapter_id,
            base_model="models/m",
            validate_only=only_check,
        ),
        adapter_header=True,
    )


def _pool(rng: random.Random) -> Attempt:
    method = rng.choice(("GetPool", "ListPools", "CreatePool", "UpdatePool"))

    def build(target: Target) -> Any:
        if method == "ListPools":
            return pb.ListPoolsRequest()
        if method == "GetPool":
            return pb.GetPoolRequest(name=f"pools/{target.pool_id}")
        pool = pool_pb2.Pool(name=f"pools/{target.pool_id}", dedicated_to=f"tenants/{target.tenant_id}")
        if method == "UpdatePool":
            return pb.UpdatePoolRequest(pool=pool)
        return pb.CreatePoolRequest(pool_id=target.pool_id, pool=pool)

    return Attempt(method, build)


def _routers(rng: random.Random) -> Attempt:
    if rng.random() < 0.5:
        return Attempt("ListRouters", lambda _target: pb.ListRoutersRequest())
    # The revisions are those of the whole mesh, and known to who reads an own etag.
    return Attempt("WaitForPropagation", lambda _target: pb.WaitForPropagationRequest(revision=1))


def _flag(rng: random.Random) -> bool:
    return rng.random() < 0.5


_MAKERS = (
    _get, _list_tenants, _update, _create, _borrow, _state, _versions, _version,
    _keys, _new_key, _revoke, _adapters, _upload, _pool, _routers,
)  # fmt: skip


def with_etag(attempt: Attempt, etag: str) -> Attempt:
    """Fill in the etag of our own tenant where an attempt needs it."""

    def build(target: Target) -> Any:
        request = attempt.build(target)
        if isinstance(request, pb.UpdateTenantRequest) and request.tenant.etag == "OURS":
            request.tenant.etag = etag
        return request

    return replace(attempt, build=build)
