"""The live config at one revision, as an immutable object, and how it is built from etcd's values."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from google.protobuf.message import DecodeError
from tenantry.config.v1 import pool_pb2, stored_pb2

from services.common import gc_pauses
from services.config.etcd import keys as etcd_keys
from services.config.etcd.follower import KeyChange
from services.config.etcd.store import Stored
from services.config.state.records import (
    AdapterRecord,
    CredentialRecord,
    ModelRecord,
    PoolRecord,
    Record,
    TenantRecord,
)
from services.config.state.sealed_versions import open_in_force
from services.config.state.sealing import SealError, TenantKeys


@dataclass(frozen=True, slots=True)
class ConfigState:
    """Everything below `live/` at one revision."""

    revision: int = 0
    """0 before the first list, and between two histories of etcd."""
    records: MappingProxyType[str, Record] = field(default_factory=lambda: MappingProxyType({}))
    """The records by their etcd key below the live prefix."""
    uid_by_tenant_id: MappingProxyType[str, str] = field(default_factory=lambda: MappingProxyType({}))
    generation: int = 0
    """Increases with every state whose records differ from those of the state it was built from."""
    keys_by_kind: Mapping[str, Sequence[str]] = field(default_factory=lambda: MappingProxyType({}))
    """The sorted keys of `records`, by their first part; the same object while no key is added or removed."""
    damaged: frozenset[str] = frozenset()
    """The keys whose values do not parse or open; their values before stay in force."""
    revision_by_tenant: MappingProxyType[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """The newest revision that changed a tenant, its keys, its tenant-admins' keys or its adapters; by tenant uid."""
    history: int = 0
    """Increases with every history of etcd that ends: revisions of two histories do not compare."""

    @property
    def lost_every_tenant(self) -> bool:
        """Whether there are tenants, and none of them opens."""
        return not self.uid_by_tenant_id and any(key.startswith("tenants/") for key in self.damaged)

    def tenant(self, tenant_id: str) -> TenantRecord | None:
        """A tenant by its id."""
        uid = self.uid_by_tenant_id.get(tenant_id)
        return self.tenant_by_uid(uid) if uid else None

    def tenant_by_uid(self, tenant_uid: str) -> TenantRecord | None:
        """A tenant by its uid."""
        record = self.records.get(f"tenants/{tenant_uid}")
        return record if isinstance(record, TenantRecord) else None

    def adapter(self, tenant_uid: str, adapter_id: str) -> AdapterRecord | None:
        """A tenant's adapter."""
        record = self.records.get(f"adapters/{tenant_uid}/{adapter_id}")
        return record if isinstance(record, AdapterRecord) else None

    def credential(self, key_id: str) -> CredentialRecord | None:
        """A key's record."""
        record = self.records.get(f"credentials/{key_id}")
        return record if isinstance(record, CredentialRecord) else None

    def pool(self, name: str) -> PoolRecord | None:
        """A pool by its resource name."""
        record = self.records.get(name)
        return record if isinstance(record, PoolRecord) else None

    def model(self, name: str) -> ModelRecord | None:
        """A base model by its resource name."""
        record = self.records.get(name)
        return record if isinstance(record, ModelRecord) else None

    def under(self, prefix: str) -> Iterable[Record]:
        """The records whose keys start with a prefix, which has to end with a slash; sorted by key.

        The cost is proportional to the result: every edit asks, and there are 10,000 tenants with their keys.
        """
        keys = self.keys_by_kind.get(prefix.partition("/")[0], ())
        first = bisect_left(keys, prefix)
        # "0" is the character after "/": every key with the prefix sorts before it.
        return [self.records[key] for key in keys[first : bisect_left(keys, prefix[:-1] + "0", first)]]


class ConfigStateBuilder:
    """Builds states from etcd's values."""

    def __init__(self, keys: TenantKeys) -> None:
        self._keys = keys

    def full(self, items: Mapping[str, Stored], revision: int, before: ConfigState) -> ConfigState:
        """Build the state of a whole list."""
        changes = [KeyChange(key, stored, stored.mod_revision) for key, stored in items.items()]
        gone = [
            KeyChange(etcd_keys.LIVE + key, None, revision)
            for key in before.records.keys() | before.damaged
            if etcd_keys.LIVE + key not in items
        ]
        with gc_pauses.paused():
            return self._with(before, gone + changes, revision)

    def changed(self, before: ConfigState, changes: Iterable[KeyChange], revision: int) -> ConfigState:
        """Build the state after whole revisions; without changes, `records` stays the same object."""
        changes = list(changes)
        if not changes:
            return replace(before, revision=revision)
        return self._with(before, changes, revision)

    def _with(self, before: ConfigState, changes: Iterable[KeyChange], revision: int) -> ConfigState:
        # dict(...) would read the proxy key by key, which takes ten times as long.
        records, names = before.records.copy(), before.uid_by_tenant_id.copy()
        revisions = before.revision_by_tenant.copy()
        broken = set(before.damaged)
        touched: set[str] = set()
        for change in changes:
            key = etcd_keys.relative(change.key)
            if change.key == etcd_keys.INTENT:
                continue
            touched.add(key)
            broken.discard(key)
            known = records.get(key)
            if change.stored is None:
                records.pop(key, None)
                _forget_name(names, known)
                if isinstance(known, TenantRecord):
                    revisions.pop(known.stored.tenant_uid, None)
                continue
            if known is not None and known.mod_revision == change.stored.mod_revision:
                continue
            try:
                record = records[key] = self._parse(key, change.stored, known)
            except (DecodeError, SealError, KeyError):
                broken.add(key)
                continue
            if isinstance(record, TenantRecord):
                _forget_name(names, known)
                names[record.stored.tenant_id] = record.stored.tenant_uid
            if tenant_uid := _belongs_to(record):
                revisions[tenant_uid] = max(revisions.get(tenant_uid, 0), record.mod_revision)
        return ConfigState(
            revision,
            MappingProxyType(records),
            MappingProxyType(names),
            before.generation + 1,
            _sorted_keys(before, records, touched),
            frozenset(broken),
            MappingProxyType(revisions),
            before.history,
        )

    def _parse(self, key: str, stored: Stored, known: Record | None) -> Record:
        kind = key.partition("/")[0]
        if kind == "tenants":
            message = stored_pb2.StoredTenant.FromString(stored.value)
            same = isinstance(known, TenantRecord) and known.stored.wrapped_key == message.wrapped_key
            tenant_key = (
                known.key
                if same and isinstance(known, TenantRecord)
                else self._keys.open(message.tenant_uid, message.wrapped_key)
            )
            return TenantRecord(message, open_in_force(message, tenant_key), tenant_key, stored.mod_revision)
        if kind == "adapters":
            return AdapterRecord(stored_pb2.StoredAdapter.FromString(stored.value), stored.mod_revision)
        if kind == "credentials":
            return CredentialRecord(stored_pb2.StoredCredential.FromString(stored.value), stored.mod_revision)
        if kind == "pools":
            return PoolRecord(pool_pb2.Pool.FromString(stored.value), stored.mod_revision)
        if kind == "models":
            return ModelRecord(pool_pb2.BaseModel.FromString(stored.value), stored.mod_revision)
        raise KeyError(key)


def _sorted_keys(
    before: ConfigState, records: Mapping[str, Record], touched: Iterable[str]
) -> Mapping[str, Sequence[str]]:
    came: dict[str, list[str]] = {}
    gone: dict[str, set[str]] = {}
    for key in touched:
        kind = key.partition("/")[0]
        if key in records and key not in before.records:
            came.setdefault(kind, []).append(key)
        elif key not in records and key in before.records:
            gone.setdefault(kind, set()).add(key)
    if not came and not gone:
        return before.keys_by_kind
    keys = dict(before.keys_by_kind)
    for kind in came.keys() | gone.keys():
        lost = gone.get(kind, set())
        # Sorting a list that is almost sorted costs little.
        keys[kind] = sorted([*(key for key in keys.get(kind, ()) if key not in lost), *came.get(kind, ())])
    return MappingProxyType(keys)


def _belongs_to(record: Record) -> str:
    """The uid of the tenant that a record is part of; empty for none."""
    if isinstance(record, CredentialRecord):
        return record.stored.tenant_uid or record.stored.role_tenant_uid
    return record.stored.tenant_uid if isinstance(record, TenantRecord | AdapterRecord) else ""


def _forget_name(names: dict[str, str], record: Record | None) -> None:
    """Free a tenant's name, unless another tenant has taken it."""
    if isinstance(record, TenantRecord) and names.get(record.stored.tenant_id) == record.stored.tenant_uid:
        del names[record.stored.tenant_id]
