"""A listing meets what every request meets: identity, staleness, limits, a stopping router."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
from tenantry.config.v1 import tenant_pb2
from tenantry.inference.v1 import inference_service_pb2 as pb

from services.common.errors import Error, Reason
from services.router.flow.requests import Requests
from services.router.request import pipeline as pipeline_module
from services.router.request.pipeline import Call
from tests.fakes.manual_clock import ManualClock
from tests.fakes.mutants import without
from tests.fakes.router_config import ConfigWorld
from tests.fakes.router_pipeline import PipelineWorld, SimulatedServer, received


def tenants(world: ConfigWorld) -> None:
    limits = tenant_pb2.Limits(requests_per_second=1, request_burst=1)
    refusing = world.tenant("refusing", 1, staleness_policy=tenant_pb2.STALENESS_POLICY_REFUSE)
    for uid in (refusing, world.tenant("limited", 2, limits=limits), world.tenant("away", 3)):
        world.key(uid, f"key-{uid}")
    world.resources["tenants/uid-away"].tenant.state = tenant_pb2.TENANT_STATE_SUSPENDED


def world_of(folder, pipeline_class=pipeline_module.Pipeline) -> PipelineWorld:
    return PipelineWorld(
        folder, SimulatedServer([]), clock=ManualClock(), pipeline_class=pipeline_class, configure=tenants
    )


@pytest.fixture
def world(tmp_path) -> PipelineWorld:
    return world_of(tmp_path)


async def listed(world: PipelineWorld, name: str, **fields) -> str:
    """The aliases, or the reason of a refusal."""
    token = world.token(f"uid-{name}", f"key-uid-{name}")
    try:
        found = await world.pipeline.list_models(Call(received(pb.ListModelsRequest(**fields)), token, None))
    except Error as error:
        assert world.leaks() == []
        return error.reason
    return ",".join(model.model for model in found.models)


def counted(world: PipelineWorld, name: str, outcome: str) -> float | None:
    labels = {"tenant": f"uid-{name}", "outcome": outcome}
    return world.registry.get_sample_value("tenantry_requests_total", labels)


async def test_a_stale_router_tells_a_refusing_tenant_nothing(world):
    assert await listed(world, "refusing") == "chat"
    world.clock.advance(2.1)
    assert await listed(world, "refusing") == Reason.CONFIG_STALE
    assert await listed(world, "limited") == "chat"
    assert counted(world, "refusing", "ok") == counted(world, "refusing", "CONFIG_STALE") == 1


async def test_listings_count_against_the_rate(world):
    assert [await listed(world, "limited") for _ in range(3)] == ["chat", "chat", Reason.RATE_LIMITED]
    world.refusals.flush()
    assert world.audit.entries[0].meta["refused"][0]["reason"] == Reason.RATE_LIMITED
    with pytest.raises(Error) as error:
        await world.pipeline.run(world.call("uid-limited"), None)
    assert error.value.reason is Reason.RATE_LIMITED


async def test_whoever_is_not_known_is_counted_and_told_nothing(world):
    with pytest.raises(Error) as error:
        await world.pipeline.list_models(Call(received(pb.ListModelsRequest()), "Bearer nonsense", None))
    assert error.value.reason is Reason.KEY_REFUSED
    assert world.registry.get_sample_value("tenantry_unidentified_requests_total", {"outcome": "KEY_REFUSED"})
    assert await listed(world, "away") == Reason.TENANT_SUSPENDED


async def test_a_bad_page_is_an_outcome(world):
    assert await listed(world, "refusing", page_size=-1) == Reason.INVALID_FIELD
    assert counted(world, "refusing", "INVALID_FIELD") == 1


async def test_a_router_that_stops_lists_nothing(world):
    await world.pipeline.stop(0)
    assert await listed(world, "refusing") == Reason.SHUTTING_DOWN


async def test_that_test_notices_a_listing_that_skips_the_staleness(tmp_path):
    world = world_of(tmp_path, without(pipeline_module, "fresh-listings").Pipeline)
    world.clock.advance(2.1)
    assert await listed(world, "refusing") == "chat"


async def test_that_test_notices_a_listing_that_skips_the_limits(world, monkeypatch):
    monkeypatch.setattr(Requests, "confirmed", lambda requests, tenant, deadline: nullcontext())
    assert [await listed(world, "limited") for _ in range(3)] == ["chat"] * 3
