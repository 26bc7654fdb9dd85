"""The last check before a request leaves: no earlier fault lets it reach another tenant's servers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.common.errors import InternalError
from services.router.backends import dispatch
from services.router.request import pipeline as pipeline_module
from services.router.request import shaping
from tests.fakes.mutants import without
from tests.fakes.router_config import ConfigWorld
from tests.fakes.router_pipeline import InstantWeights, PipelineWorld, SimulatedServer

THEIRS = "pools/theirs"


def two_tenants(world: ConfigWorld) -> None:
    for name, ordinal in (("acme", 7), ("rival", 8)):
        world.key(world.tenant(name, ordinal), f"key-uid-{name}")
    world.pool(["their-server"], name=THEIRS, dedicated_to="tenants/rival")


@pytest.fixture
def misled(tmp_path, monkeypatch) -> PipelineWorld:
    """A router that resolves every name to the rival's pool."""
    world = PipelineWorld(tmp_path, SimulatedServer([ord("a")]), configure=two_tenants)
    theirs, right = world.state.snapshot().pools[THEIRS], shaping.shape
    monkeypatch.setattr(pipeline_module, "shape", lambda *given: replace(right(*given), pool=theirs))
    return world


async def test_no_request_leaves_for_another_tenants_pool(misled):
    with pytest.raises(InternalError):
        await misled.pipeline.run(misled.call("uid-acme"), None)
    assert (misled.server.requests, misled.leaks()) == ([], [])
    await misled.pipeline.run(misled.call("uid-rival"), None)


async def test_that_test_notices_a_missing_check(misled):
    careless = without(dispatch, "dedicated-pool")
    misled.pipeline._dispatcher = careless.Dispatcher(
        {"TRTLLM_ENGINE": misled.server}, InstantWeights(), misled.clock, misled.pipeline._metrics
    )
    await misled.pipeline.run(misled.call("uid-acme"), None)
    assert len(misled.server.requests) == 1
