"""The keys in etcd. Only keys below `live/` are watched. Pure."""

from __future__ import annotations

ROOT = "/tenantry/v1"
LIVE = f"{ROOT}/live/"
TENANTS = f"{LIVE}tenants/"
POOLS = f"{LIVE}pools/"
CREDENTIALS = f"{LIVE}credentials/"
ADAPTERS = f"{LIVE}adapters/"
DELETED_MODELS = f"{ROOT}/deleted/models/"
"""Written with each deletion of a base model, so that a concurrent edit which names the model fails."""
INTENT = f"{LIVE}intent"
"""The mark of the newest edit: see `intents.marks`."""


def tenant_key(tenant_uid: str) -> str:
    """A tenant and its config in force."""
    return f"{TENANTS}{tenant_uid}"


def tenant_name_key(tenant_id: str) -> str:
    """Holds the uid of the tenant with a name, so that a name is given once."""
    return f"{ROOT}/names/tenants/{tenant_id}"


def version_key(tenant_uid: str, version: int) -> str:
    """An immutable config version; the number is padded so that keys sort."""
    return f"{versions_prefix(tenant_uid)}{version:012d}"


def version_number(key: str) -> int:
    """The number of a version's key."""
    return int(key.rpartition("/")[2])


def versions_prefix(tenant_uid: str) -> str:
    """Every config version of a tenant."""
    return f"{ROOT}/history/tenants/{tenant_uid}/"


def tombstone_key(tenant_uid: str) -> str:
    """The record that remains of a deleted tenant."""
    return f"{ROOT}/deleted/tenants/{tenant_uid}"


def adapter_key(tenant_uid: str, adapter_id: str) -> str:
    """An adapter with its versions."""
    return f"{adapters_prefix(tenant_uid)}{adapter_id}"


def adapters_prefix(tenant_uid: str) -> str:
    """Every adapter of a tenant."""
    return f"{ADAPTERS}{tenant_uid}/"


def credential_key(key_id: str) -> str:
    """A key's record."""
    return f"{CREDENTIALS}{key_id}"


def pool_key(pool_id: str) -> str:
    """A pool."""
    return f"{POOLS}{pool_id}"


def model_key(model_id: str) -> str:
    """A base model."""
    return f"{LIVE}models/{model_id}"


def deleted_model_key(model_id: str) -> str:
    """The record that a base model was deleted; holds the operator's key id."""
    return f"{DELETED_MODELS}{model_id}"


def ordinal_counter_key() -> str:
    """The highest tenant ordinal given out."""
    return f"{ROOT}/alloc/ordinal"


def serial_counter_key(tenant_uid: str) -> str:
    """The highest adapter serial given out to a tenant."""
    return f"{ROOT}/alloc/serials/{tenant_uid}"


def epoch_key() -> str:
    """The restore epoch: raised after every restore from a backup, so that no id repeats."""
    return f"{ROOT}/alloc/epoch"


def quota_key(tenant_uid: str, allowance: str) -> str:
    """The account of one of a tenant's quotas or spend budgets: `hour`, `day`, `month`, `spend-day`, `spend-month`."""
    return f"{ROOT}/quota/{tenant_uid}/{allowance}"


def relative(key: str) -> str:
    """A live key without its prefix, as discovery shows it."""
    return key.removeprefix(LIVE)
