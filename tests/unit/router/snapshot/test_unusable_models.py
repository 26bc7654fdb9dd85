"""Requests for a base model that a router cannot use are refused; all others are served as before."""

from __future__ import annotations

import logging

import pytest
from prometheus_client import CollectorRegistry
from tenantry.config.v1 import tenant_pb2

from services.common.artifacts import ArtifactError
from services.common.errors import Code, Error, Reason
from services.common.rpc.health import HealthBoard
from services.router.limits.tenant_limiter import TenantLimiter
from services.router.metrics import RequestMetrics
from services.router.pool.directory import PoolDirectory
from services.router.snapshot import compiler as snapshot_compiler
from services.router.snapshot.compiler import compile_snapshot
from services.router.snapshot.config_metrics import ConfigMetrics
from services.router.snapshot_follower import SnapshotFollower
from services.router.text.text_model import TextModelLoader
from tests.fakes.mutants import changed
from tests.fakes.router_config import BASE_MODEL, ConfigWorld
from tests.fakes.router_pipeline import PipelineWorld, SimulatedServer

OTHER = "models/other"


def configure(world: ConfigWorld) -> None:
    """One tenant of the good model, one of another that no router can use, one of both."""
    good, world.tokeniser_sha256 = world.tokeniser_sha256, world.artifacts.put(b"{}")
    world.base_model(OTHER)
    world.tokeniser_sha256 = good
    world.pool(["other"], "pools/other", base_model=OTHER)
    aliases = {
        "well": [("chat", BASE_MODEL)],
        "hit": [("chat", OTHER)],
        "both": [("chat", BASE_MODEL), ("new", OTHER)],
    }
    for ordinal, (name, models) in enumerate(aliases.items(), start=1):
        found = [tenant_pb2.ModelAlias(alias=alias, base_model=model) for alias, model in models]
        world.key(world.tenant(name, ordinal, found), f"key-uid-{name}")


@pytest.fixture
def world(tmp_path) -> PipelineWorld:
    made = PipelineWorld(tmp_path, SimulatedServer([]), configure=configure)
    text = made.state.snapshot().tenants["uid-well"].targets["chat"].base_model.text
    made.server.answer = text.encode_prompt("hello world")
    return made


async def failure(world: PipelineWorld, call) -> Error:
    with pytest.raises(Error) as refused:
        await world.pipeline.run(call, None)
    assert world.leaks() == []
    return refused.value


async def test_only_requests_for_it_are_refused(world):
    for uid in ("uid-well", "uid-both"):
        assert (await world.pipeline.run(world.call(uid), None)).text == "hello world"
    for uid, fields in (("uid-hit", {}), ("uid-both", {"model": "new"})):
        error = await failure(world, world.call(uid, **fields))
        assert (error.code, error.reason) == (Code.UNAVAILABLE, Reason.MODEL_UNUSABLE)
        assert "sha" not in error.message
    labels = {"tenant": "uid-hit", "outcome": Reason.MODEL_UNUSABLE}
    assert world.registry.get_sample_value("tenantry_requests_total", labels) == 1.0


async def test_others_config_goes_on(world):
    world.config.tenant("well", 1, version=2)
    world.apply(revision=2)
    assert world.state.snapshot().tenants["uid-well"].config_version == 2
    assert (await world.pipeline.run(world.call("uid-well"), None)).text == "hello world"


def test_that_test_notices_a_model_that_refuses_everybodys_config(tmp_path, monkeypatch):
    careless = changed(
        snapshot_compiler,
        "unusable-model-refuses-no-snapshot",
        "raise SnapshotRefusedError([str(error)]) from None",
    )
    monkeypatch.setattr("tests.fakes.router_pipeline.compile_snapshot", careless.compile_snapshot)
    with pytest.raises(careless.SnapshotRefusedError):
        PipelineWorld(tmp_path, SimulatedServer([]), configure=configure)


class Unreachable:
    """An artifact store that may be out of reach."""

    def __init__(self, artifacts) -> None:
        self.artifacts = artifacts
        self.away: set[str] = set()
        self.reads: list[str] = []

    def read(self, sha256):
        self.reads.append(sha256)
        if sha256 in self.away:
            raise ArtifactError("away")
        return self.artifacts.read(sha256)


def one_tenant_more(world: PipelineWorld, compiled, loader):
    ordinal = len(world.config.ordinals) + 1
    uid = world.config.tenant(f"t{ordinal}", ordinal)
    return compile_snapshot(ordinal, dict(world.config.resources), loader.load, compiled, {f"tenants/{uid}"})


def test_artifacts_that_can_be_read_again_are_used_from_the_next_change_on(world):
    store = Unreachable(world.config.artifacts)
    loader = TextModelLoader(store)
    store.away.add(world.config.tokeniser_sha256)
    before = compile_snapshot(1, dict(world.config.resources), loader.load)
    assert set(before.snapshot.unusable_models) == {BASE_MODEL, OTHER}
    still = one_tenant_more(world, before, loader)
    assert set(still.snapshot.unusable_models) == {BASE_MODEL, OTHER}
    store.away.clear()
    after = one_tenant_more(world, still, loader)
    assert set(after.snapshot.unusable_models) == {OTHER}
    assert after.snapshot.tenants["uid-well"].targets["chat"].base_model.usable


def test_artifacts_that_are_wrong_are_read_once(world):
    store = Unreachable(world.config.artifacts)
    loader = TextModelLoader(store)
    compiled = compile_snapshot(1, dict(world.config.resources), loader.load)
    store.reads.clear()
    assert set(one_tenant_more(world, compiled, loader).snapshot.unusable_models) == {OTHER}
    assert store.reads == []


def test_it_is_logged_once_and_counted_while_it_lasts(world, caplog):
    registry = CollectorRegistry()
    metrics = RequestMetrics(registry), ConfigMetrics(registry)
    follower = SnapshotFollower(
        PoolDirectory(None, None), [TenantLimiter().forget], *metrics, None, HealthBoard(["c"]), "c"
    )
    snapshot = world.state.snapshot()
    with caplog.at_level(logging.ERROR):
        follower.follow(snapshot)
        follower.follow(snapshot)
    (record,) = [record for record in caplog.records if OTHER in record.message]
    assert "cannot be used" in record.message
    assert registry.get_sample_value("tenantry_unusable_models") == 1.0
    del world.config.resources["tenants/uid-hit"], world.config.resources["pools/other"]
    del world.config.resources["tenants/uid-both"], world.config.resources[OTHER]
    for uid in ("uid-hit", "uid-both"):
        del world.config.resources[f"credentials/key-{uid}"]
    world.apply(revision=2)
    follower.follow(world.state.snapshot())
    assert registry.get_sample_value("tenantry_unusable_models") == 0.0
