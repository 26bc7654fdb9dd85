"""The records under a prefix are found without a look at all records."""

from __future__ import annotations

import random

from tenantry.config.v1 import pool_pb2, stored_pb2

from services.config.etcd import keys as etcd_keys
from services.config.etcd.follower import KeyChange
from services.config.etcd.store import Stored
from services.config.state.config_state import ConfigState, ConfigStateBuilder
from services.config.state.sealing import TenantKeys

PREFIXES = ["pools/", "credentials/", "adapters/", "adapters/a/", "adapters/ab/", "adapters/c/", "tenants/"]
KEYS = [
    *(etcd_keys.pool_key(name) for name in ("a", "b", "a-b")),
    *(etcd_keys.credential_key(name) for name in ("0", "00", "f")),
    *(etcd_keys.adapter_key(uid, name) for uid in ("a", "ab", "a-", "a0") for name in ("x", "y")),
]
VALUES = {"pools": pool_pb2.Pool(), "credentials": stored_pb2.StoredCredential()}


def value_of(key):
    kind = etcd_keys.relative(key).partition("/")[0]
    return VALUES.get(kind, stored_pb2.StoredAdapter()).SerializeToString()


def require_same_as_a_search(state):
    for prefix in PREFIXES:
        searched = [state.records[key] for key in sorted(state.records) if key.startswith(prefix)]
        found = list(state.under(prefix))
        assert len(found) == len(searched)
        assert all(one is other for one, other in zip(found, searched, strict=True))


def test_what_comes_and_goes_is_found_where_a_search_finds_it():
    chance = random.Random(20)
    builder, state, there = ConfigStateBuilder(TenantKeys(b"r" * 32)), ConfigState(), {}
    for revision in range(1, 300):
        touched = chance.sample(KEYS, chance.randint(1, 4))
        for key in touched:
            there[key] = Stored(value_of(key), revision) if chance.random() < 0.6 else None
        if chance.random() < 0.1:
            items = {key: stored for key, stored in there.items() if stored}
            state = builder.full(items, revision, chance.choice([state, ConfigState()]))
        else:
            changes = [KeyChange(key, there[key], revision) for key in touched]
            state = builder.changed(state, changes, revision)
        require_same_as_a_search(state)


def test_an_edit_of_what_is_there_sorts_nothing():
    builder, key = ConfigStateBuilder(TenantKeys(b"r" * 32)), etcd_keys.pool_key("a")
    before = builder.full({key: Stored(value_of(key), 1)}, 1, ConfigState())
    after = builder.changed(before, [KeyChange(key, Stored(value_of(key), 2), 2)], 2)
    assert after.records is not before.records
    assert after.keys_by_kind is before.keys_by_kind
