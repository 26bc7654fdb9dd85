"""A snapshot compiled from its predecessor is the snapshot compiled from everything."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tenantry.config.v1 import tenant_pb2

from services.common.artifacts import DirectoryArtifactStore
from services.router.snapshot import compiler as snapshot_compiler
from services.router.snapshot.compiler import SnapshotRefusedError, compile_snapshot
from services.router.text.text_model import TextModelLoader
from tests.fakes.mutants import changed
from tests.fakes.router_config import BASE_MODEL, ConfigWorld, tiny_rendition
from tests.fakes.tiny_text import CHAT_TEMPLATE, tiny_tokeniser_json

NAMES = ["a", "b", "c", "d"]
tenants = st.sampled_from(NAMES)
steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("tenant"), tenants, st.integers(1, 5), st.sampled_from(["", "pools/own", "pools/main"])
        ),
        st.tuples(st.just("suspended"), tenants, st.integers(1, 5)),
        st.tuples(st.just("adapter"), tenants, st.sampled_from(["x", "y"]), st.integers(1, 9)),
        st.tuples(st.just("alias"), tenants, st.sampled_from(["x", "y", "gone"])),
        st.tuples(st.just("key"), tenants, st.sampled_from(["k1", "k2"]), st.booleans()),
        st.tuples(st.just("pool"), st.sampled_from(["", "tenants/a", "tenants/b"])),
        st.tuples(st.just("drop"), st.integers(0, 30)),
    ),
    max_size=12,
)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    return DirectoryArtifactStore(tmp_path_factory.mktemp("artifacts"))


def fresh_world(artifacts):
    world = ConfigWorld(
        artifacts, artifacts.put(tiny_tokeniser_json()), artifacts.put(CHAT_TEMPLATE.encode())
    )
    world.base_model()
    world.pool(["a:1"])
    return world


def take(world, step):
    kind, *rest = step
    if kind == "tenant":
        name, ordinal, pool = rest
        world.tenant(name, ordinal, pool=pool)
    elif kind == "suspended":
        world.tenant(rest[0], rest[1], suspended=True)
    elif kind == "alias":
        name, adapter = rest
        uid = f"uid-{name}"
        model = tenant_pb2.ModelAlias(alias="chat", base_model=BASE_MODEL, adapter=adapter)
        world.tenant(name, world.ordinals.get(uid, 7), [model])
    elif kind == "adapter":
        name, adapter, serial = rest
        uid = f"uid-{name}"
        world.ordinals.setdefault(uid, 1)
        world.adapter(uid, adapter, serial, tiny_rendition(serial))
    elif kind == "key":
        world.key(f"uid-{rest[0]}", rest[1], revoked=rest[2])
    elif kind == "pool":
        world.pool(["b:1"], "pools/own", dedicated_to=rest[0])
    elif world.resources:
        keys = sorted(world.resources)
        del world.resources[keys[rest[0] % len(keys)]]


def outcome(module, *arguments):
    try:
        return module.compile_snapshot(*arguments), None
    except (SnapshotRefusedError, module.SnapshotRefusedError) as refused:
        return None, sorted(refused.reasons)


def follow(module, artifacts, batches):
    """Deltas from the last accepted state, as the config service sends them; each is compared with a whole compile."""
    world, load = fresh_world(artifacts), TextModelLoader(artifacts).load
    held = dict(world.resources)
    before = compile_snapshot(1, held, load)
    for revision, batch in enumerate(batches, 2):
        for step in batch:
            take(world, step)
        now = dict(world.resources)
        touched = {key for key in held.keys() | now.keys() if held.get(key) is not now.get(key)}
        whole, reasons = outcome(snapshot_compiler, revision, now, load)
        compiled, delta_reasons = outcome(module, revision, now, load, before, touched)
        assert (compiled is None) == (whole is None), (reasons, delta_reasons)
        if compiled is not None:
            assert compiled.snapshot == whole.snapshot
            assert (compiled.adapter_keys, compiled.uid_of_ordinal) == (
                whole.adapter_keys,
                whole.uid_of_ordinal,
            )
            before, held = compiled, now


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(steps, max_size=6))
def test_deltas_end_where_a_whole_compile_ends(artifacts, batches):
    follow(snapshot_compiler, artifacts, batches)


@pytest.mark.parametrize(
    ("mark", "becomes"),
    [("freed-ordinal", "pass"), ("dropped-adapter", "own = own | {key}"), ("renamed-owner", "pass")],
)
def test_mutants_are_found(artifacts, mark, becomes):
    careless = changed(snapshot_compiler, mark, becomes)
    histories = [
        [[("tenant", "a", 1, "")], [("drop", 2)], [("tenant", "b", 1, "")]],
        [[("tenant", "a", 1, ""), ("adapter", "a", "x", 1)], [("drop", 0)]],
        [[("pool", "tenants/a")], [("tenant", "a", 1, "pools/own")], [("tenant", "a", 1, "pools/main")]],
        [[("tenant", "a", 1, ""), ("pool", "tenants/b")], [("tenant", "b", 2, "pools/own")]],
    ]
    found = 0
    for history in histories:
        try:
            follow(careless, artifacts, history)
        except (AssertionError, KeyError):
            found += 1
    assert found


def test_one_change_compiles_one_tenant(artifacts, monkeypatch):
    world, load = fresh_world(artifacts), TextModelLoader(artifacts).load
    for number in range(50):
        world.tenant(f"t{number}", number + 1)
    before = compile_snapshot(1, dict(world.resources), load)
    compiled = []
    real = snapshot_compiler.compile_tenant
    monkeypatch.setattr(
        snapshot_compiler,
        "compile_tenant",
        lambda tenant, *rest: compiled.append(tenant.tenant_uid) or real(tenant, *rest),
    )
    world.tenant("t7", 8, version=2)
    after = compile_snapshot(2, dict(world.resources), load, before, {"tenants/uid-t7"})
    assert compiled == ["uid-t7"]
    assert after.snapshot.tenants["uid-t7"].config_version == 2
    assert after.snapshot.tenants["uid-t8"] is before.snapshot.tenants["uid-t8"]
