"""A delta over the touched keys equals the delta over all keys."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tenantry.config.v1 import pool_pb2, stored_pb2, tenant_pb2

from services.config.discovery.messages import delta
from services.config.etcd import keys as etcd_keys
from services.config.etcd.follower import KeyChange
from services.config.etcd.store import Stored
from services.config.state import current_state
from services.config.state.config_state import ConfigStateBuilder
from services.config.state.sealed_versions import seal_in_force
from services.config.state.sealing import TenantKeys
from tests.fakes.manual_clock import ManualClock
from tests.fakes.mutants import changed

KEYS = TenantKeys(b"r" * 32)
WRAPPED = {uid: KEYS.create(uid) for uid in ("a", "b")}

step = st.one_of(
    st.tuples(st.just("pool"), st.sampled_from("pq"), st.booleans()),
    st.tuples(st.just("tenant"), st.sampled_from("ab"), st.booleans()),
    st.tuples(st.just("adapter"), st.sampled_from("ab"), st.booleans()),
    st.tuples(st.just("progress")),
    st.tuples(st.just("replace")),
    st.tuples(st.just("forget")),
)


class History:
    """etcd's live keys, and the states that a config service built of them."""

    def __init__(self, module):
        self.current = module.CurrentState(ConfigStateBuilder(KEYS), ManualClock())
        self.items = {}
        self.revision = 1
        self.current.replace({}, 1)
        self.seen = [self.current.state]

    def take(self, kind, *rest):
        self.revision += 1
        if kind == "progress":
            self.current.apply([], self.revision)
        elif kind == "replace":
            self.current.replace(dict(self.items), self.revision)
        elif kind == "forget":
            # etcd was restored: the next state is built on none.
            self.revision = 1
            self.items = {key: Stored(stored.value, 1) for key, stored in self.items.items()}
            self.current.replace(dict(self.items), 1)
        else:
            self._change(kind, *rest)
        self.seen.append(self.current.state)

    def _change(self, kind, name, present):
        key, value = VALUES[kind](name)
        self.items.pop(key, None)
        stored = Stored(value, self.revision) if present else None
        if stored is not None:
            self.items[key] = stored
        self.current.apply([KeyChange(key, stored, self.revision)], self.revision)

    def differences(self):
        newest = self.current.state
        for before in self.seen:
            touched = self.current.touched(before, newest)
            if touched is not None:
                yield said(delta(before, newest, "n", touched)), said(delta(before, newest, "n"))


def pool(name):
    return etcd_keys.pool_key(name), pool_pb2.Pool(name=f"pools/{name}").SerializeToString()


def tenant(uid):
    key, wrapped = WRAPPED[uid]
    stored = stored_pb2.StoredTenant(tenant_id=uid, tenant_uid=uid, wrapped_key=wrapped)
    seal_in_force(stored, tenant_pb2.TenantConfig(), key)
    return etcd_keys.tenant_key(uid), stored.SerializeToString()


def adapter(uid):
    stored = stored_pb2.StoredAdapter(adapter_id="x", tenant_uid=uid)
    return etcd_keys.adapter_key(uid, "x"), stored.SerializeToString()


VALUES = {"pool": pool, "tenant": tenant, "adapter": adapter}


def said(messages):
    """The resources of a router after a delta."""
    resources, removed = {}, set()
    for message in messages:
        resources |= {one.key: one.SerializeToString() for one in message.chunk.resources}
        removed |= set(message.chunk.removed)
    return resources, removed


@settings(deadline=None)
@given(st.lists(step, max_size=14))
def test_it_says_the_same(steps):
    history = History(current_state)
    for one in steps:
        history.take(*one)
        for over_touched, over_everything in history.differences():
            assert over_touched == over_everything


def test_a_change_is_looked_up_and_not_searched():
    history = History(current_state)
    history.take("tenant", "a", True)
    before = history.current.state
    history.take("pool", "p", True)
    history.take("progress")
    assert history.current.touched(before, history.current.state) == {"pools/p"}
    assert history.current.touched(history.current.state, before) is None


def test_mutant_that_numbers_anew_after_a_list_is_found():
    careless = changed(current_state, "no-generation-twice", "generation = state.generation")
    history = History(careless)
    for one in [("pool", "p", True), ("forget",), ("pool", "q", True)]:
        history.take(*one)
    assert any(one != other for one, other in history.differences())
