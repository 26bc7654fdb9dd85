"""The pool a router sends an alias to is the one the config service checked it against."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tenantry.config.v1 import tenant_pb2

from services.common.artifacts import DirectoryArtifactStore
from services.config.rules.catalog_facts import facts_of_pool
from services.config.rules.serving import serving_pool
from services.router.snapshot import tenant_compiler
from services.router.snapshot.compiler import compile_snapshot
from services.router.text.text_model import TextModelLoader
from tests.fakes.router_config import BASE_MODEL, ConfigWorld
from tests.fakes.tiny_text import CHAT_TEMPLATE, tiny_tokeniser_json

NAMES = ("pools/a", "pools/b", "pools/c")
pools = st.lists(
    st.tuples(
        st.sampled_from(NAMES),
        st.sampled_from((BASE_MODEL, "models/other")),
        st.sampled_from(("", "tenants/acme", "tenants/globex")),
        st.integers(0, 2),
    ),
    max_size=4,
)
tiers = st.sampled_from(
    (
        tenant_pb2.ISOLATION_TIER_UNSPECIFIED,
        tenant_pb2.ISOLATION_TIER_SHARED,
        tenant_pb2.ISOLATION_TIER_DEDICATED,
    )
)


@pytest.fixture
def artifacts(tmp_path):
    return DirectoryArtifactStore(tmp_path)


def choices(artifacts, given_pools, tier, named):
    """The pool that the router chooses, and the one that the config service checks against."""
    world = ConfigWorld(
        artifacts, artifacts.put(tiny_tokeniser_json()), artifacts.put(CHAT_TEMPLATE.encode())
    )
    world.base_model()
    world.base_model("models/other")
    for name, base_model, dedicated_to, available in given_pools:
        world.pool([f"{name}:1"], name, base_model=base_model, dedicated_to=dedicated_to)
        world.resources[name].pool.available_time.seconds = available
    uid = world.tenant("acme", 1, isolation_tier=tier, pool=named)
    world.tenant("globex", 2)
    snapshot = compile_snapshot(1, world.resources, TextModelLoader(artifacts).load).snapshot
    chosen = snapshot.tenants[uid].targets["chat"].pool
    facts = {r.pool.name: facts_of_pool(r.pool) for r in world.resources.values() if r.HasField("pool")}
    config = world.resources[f"tenants/{uid}"].tenant.config
    return chosen.name if chosen else "", serving_pool(config, "tenants/acme", BASE_MODEL, facts)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given_pools=pools, tier=tiers, named=st.sampled_from(("", *NAMES)))
def test_routers_and_the_config_service_choose_the_same(artifacts, given_pools, tier, named):
    chosen, checked = choices(artifacts, given_pools, tier, named)
    assert chosen == checked


def two_shared(artifacts):
    """Two pools: the one that was added later has the name that sorts first."""
    late, early = ("pools/a", BASE_MODEL, "", 2), ("pools/b", BASE_MODEL, "", 1)
    return choices(artifacts, [late, early], tenant_pb2.ISOLATION_TIER_SHARED, "")


def test_the_one_that_has_been_available_longest_is_chosen(artifacts):
    assert two_shared(artifacts) == ("pools/b", "pools/b")


def test_that_test_notices_a_choice_by_name(artifacts, monkeypatch):
    choose = tenant_compiler._pool_for
    by_name = lambda *given: choose(*given[:-1], dict(sorted(given[-1].items())))  # noqa: E731 - read where it is used
    monkeypatch.setattr(tenant_compiler, "_pool_for", by_name)
    assert two_shared(artifacts)[0] == "pools/a"
