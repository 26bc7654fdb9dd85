"""A failure that no code foresaw is counted, logged and recorded for its tenant like any other."""

from __future__ import annotations

import asyncio
import logging

import pytest
from tenantry.inference.v1 import inference_service_pb2 as pb

from services.common.errors import Error, Reason
from services.router.request import failure_log, pipeline
from services.router.request.pipeline import Call
from tests.fakes.mutants import without
from tests.fakes.router_config import ConfigWorld
from tests.fakes.router_pipeline import PipelineWorld, SimulatedServer, received

TEXT = "a tenant's text"


class FaultError(Exception):
    """No code of the router raises it."""


def tenants(world: ConfigWorld) -> None:
    world.key(world.tenant("acme", 7), "key-uid-acme")


def world_of(folder, module=pipeline) -> PipelineWorld:
    return PipelineWorld(folder, SimulatedServer([]), pipeline_class=module.Pipeline, configure=tenants)


def fails(error):
    def call(*_args, **_named):
        raise error

    return call


def refused(world: PipelineWorld) -> list[str]:
    world.refusals.flush()
    return [part["reason"] for entry in world.audit.entries for part in entry.meta["refused"]]


def counted(world: PipelineWorld) -> float | None:
    labels = {"tenant": "uid-acme", "outcome": "INTERNAL"}
    return world.registry.get_sample_value("tenantry_requests_total", labels)


async def test_a_fault_before_the_admit_is_a_refusal_of_its_tenant(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, logger=failure_log.__name__)
    monkeypatch.setattr(pipeline, "shape", fails(FaultError(TEXT)))
    world = world_of(tmp_path)
    call = world.call("uid-acme")
    with pytest.raises(FaultError):
        await world.pipeline.run(call, None)
    assert refused(world) == [Reason.INTERNAL]
    assert counted(world) == 1
    assert world.leaks() == []
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert f"request {call.request_id} failed: INTERNAL tenant=uid-acme" in caplog.text
    assert TEXT not in caplog.text


async def test_that_test_fails_where_such_a_fault_is_not_counted(tmp_path):
    broken = without(pipeline, "unexpected-failures-are-counted")
    broken.shape = fails(FaultError(TEXT))
    world = world_of(tmp_path, broken)
    with pytest.raises(FaultError):
        await world.pipeline.run(world.call("uid-acme"), None)
    assert refused(world) == []


async def test_a_fault_of_a_listing_is_a_refusal_of_its_tenant(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "list_models", fails(FaultError(TEXT)))
    world = world_of(tmp_path)
    call = Call(received(pb.ListModelsRequest()), world.token("uid-acme", "key-uid-acme"), None)
    with pytest.raises(FaultError):
        await world.pipeline.list_models(call)
    assert refused(world) == [Reason.INTERNAL]
    assert counted(world) == 1


async def test_a_fault_while_the_caller_is_identified_is_counted_as_unidentified(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "identify", fails(FaultError(TEXT)))
    world = world_of(tmp_path)
    with pytest.raises(FaultError):
        await world.pipeline.run(world.call("uid-acme"), None)
    labels = {"outcome": "INTERNAL"}
    assert world.registry.get_sample_value("tenantry_unidentified_requests_total", labels) == 1


async def test_a_cancellation_is_no_fault(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "shape", fails(asyncio.CancelledError()))
    world = world_of(tmp_path)
    with pytest.raises(asyncio.CancelledError):
        await world.pipeline.run(world.call("uid-acme"), None)
    assert refused(world) == []
    assert not counted(world)


async def test_an_error_of_ours_keeps_its_reason(tmp_path):
    world = world_of(tmp_path)
    with pytest.raises(Error):
        await world.pipeline.run(
            Call(received(pb.GenerateRequest(model="none")), world.token("uid-acme", "key-uid-acme"), 5.0),
            None,
        )
    assert Reason.INTERNAL not in refused(world)
