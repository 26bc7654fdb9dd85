"""Shared by all changes of a tenant's config: find the tenant, hold its references, make its next version."""

from __future__ import annotations

from tenantry.config.v1 import stored_pb2, tenant_pb2

from services.common.errors import FieldViolation, InvalidArgumentError, NotFoundError
from services.config.etcd import keys as etcd_keys
from services.config.etcd.store import Expect, Unchanged
from services.config.intents.version_entries import NewVersion
from services.config.rules.catalog_facts import no_base_model
from services.config.rules.free_text import check_display_name
from services.config.rules.known_fields import unknown_violations
from services.config.state.config_state import ConfigState
from services.config.state.operators import NO_TENANT, Operator
from services.config.state.records import TenantRecord
from services.config.state.resources import parse_name
from services.config.state.sealed_versions import seal_in_force, seal_version
from services.config.state.sealing import TenantKey

KEPT_VERSIONS = 100
"""The number of versions kept in etcd; the tenant's audit log keeps all."""


def find_tenant(state: ConfigState, operator: Operator, name: str, field: str) -> TenantRecord:
    """Find the tenant of a resource name, if this operator may see it.

    Raises:
        InvalidArgumentError: it is not a tenant's name.
        NotFoundError: the tenant does not exist or is not this operator's: the two look the same.
    """
    _, (tenant_id,) = parse_name(name, "tenants/{tenant}", field=field)
    return operator.require_tenant(state.tenant(tenant_id))


def still_there(state: ConfigState, tenant_uid: str) -> Expect:
    """A condition of all that is written for a tenant: the tenant still exists, so that nothing outlives it.

    Raises:
        NotFoundError: the tenant does not exist.
    """
    record = state.tenant_by_uid(tenant_uid)
    if record is None:
        raise NotFoundError(NO_TENANT)
    return Expect(etcd_keys.tenant_key(tenant_uid), record.mod_revision)


def references_hold(
    state: ConfigState, tenant_uid: str, config: tenant_pb2.TenantConfig
) -> list[Expect | Unchanged]:
    """Conditions of a config: what it refers to is unchanged since `state`, in which the config was checked.

    Meanwhile a pool may have changed, or a base model or an adapter may have been deleted. One alias that names a
    missing resource would make routers refuse the config of the whole mesh.
    """
    named = sorted({alias.adapter for alias in config.models if alias.adapter})
    found = [(adapter_id, state.adapter(tenant_uid, adapter_id)) for adapter_id in named]
    return [
        Unchanged(etcd_keys.POOLS, state.revision),
        # One condition for all models: with 64 adapters, 64 more would not fit into a transaction.
        Unchanged(etcd_keys.DELETED_MODELS, state.revision),
        *(
            Expect(etcd_keys.adapter_key(tenant_uid, adapter_id), record.mod_revision if record else 0)
            for adapter_id, record in found
        ),
    ]


def model_still_there(state: ConfigState, name: str, field: str) -> Expect:
    """A condition of a resource that refers to a base model: the base model still exists.

    Raises:
        InvalidArgumentError: it does not exist.
    """
    record = state.model(name)
    if record is None:
        raise InvalidArgumentError([FieldViolation(field, no_base_model(state))])
    return Expect(etcd_keys.model_key(name.removeprefix("models/")), record.mod_revision)


def new_version(
    stored: stored_pb2.StoredTenant,
    config: tenant_pb2.TenantConfig,
    key: TenantKey,
    operator: Operator,
    reason: str,
    *,
    rollback_of: int = 0,
) -> NewVersion:
    """Make a config the tenant's next version; `stored` holds it afterwards."""
    stored.config_version += 1
    seal_in_force(stored, config, key)
    version = stored_pb2.StoredVersion(
        config_version=stored.config_version,
        create_time=stored.update_time,
        operator_key_id=operator.key_id,
        operator=f"operators/{operator.name}",
        rollback_of=rollback_of,
    )
    seal_version(version, config, reason, key)
    return NewVersion(stored.tenant_uid, version, config)


def version_puts(stored: stored_pb2.StoredTenant, version: NewVersion) -> tuple[dict[str, bytes], list[str]]:
    """The keys that a new version puts (tenant and history) and deletes (the oldest version beyond those kept)."""
    number, uid = version.stored.config_version, stored.tenant_uid
    puts = {
        etcd_keys.version_key(uid, number): version.stored.SerializeToString(),
        etcd_keys.tenant_key(uid): stored.SerializeToString(),
    }
    return puts, [etcd_keys.version_key(uid, number - KEPT_VERSIONS)] if number > KEPT_VERSIONS else []


def resource_violations(wanted: tenant_pb2.Tenant, sent: tenant_pb2.Tenant) -> list[FieldViolation]:
    """Every violation of a tenant besides its config; the tenant as it would be, and as it was sent."""
    shell = tenant_pb2.Tenant()
    shell.CopyFrom(sent)
    shell.ClearField("config")
    found = unknown_violations(shell, "tenant") + check_display_name(
        wanted.display_name, "tenant.display_name"
    )
    if not wanted.HasField("config"):
        found.append(FieldViolation("tenant.config", "is missing"))
    return found
