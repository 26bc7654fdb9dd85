"""The records that etcd holds under the live keys, parsed and opened."""

from __future__ import annotations

from dataclasses import dataclass

from tenantry.config.v1 import pool_pb2, stored_pb2, tenant_pb2

from services.config.state.sealing import TenantKey


@dataclass(frozen=True, slots=True)
class TenantRecord:
    """A tenant's record, opened."""

    stored: stored_pb2.StoredTenant
    config: tenant_pb2.TenantConfig
    key: TenantKey
    mod_revision: int

    @property
    def name(self) -> str:
        """`tenants/{tenant}`."""
        return f"tenants/{self.stored.tenant_id}"


@dataclass(frozen=True, slots=True)
class AdapterRecord:
    """An adapter's record."""

    stored: stored_pb2.StoredAdapter
    mod_revision: int


@dataclass(frozen=True, slots=True)
class CredentialRecord:
    """A key's record; never its secret."""

    stored: stored_pb2.StoredCredential
    mod_revision: int


@dataclass(frozen=True, slots=True)
class PoolRecord:
    """A pool's record."""

    pool: pool_pb2.Pool
    mod_revision: int


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """A base model's record."""

    model: pool_pb2.BaseModel
    mod_revision: int


Record = TenantRecord | AdapterRecord | CredentialRecord | PoolRecord | ModelRecord
