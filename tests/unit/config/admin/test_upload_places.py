"""One tenant's slow uploads do not keep out another's."""

from __future__ import annotations

import asyncio

import pytest
from tenantry.config.v1 import config_admin_service_pb2 as pb

from services.common.errors import (
    DeadlineExceededError,
    InvalidArgumentError,
    Reason,
    ResourceExhaustedError,
)
from services.config.adapters.peft import WEIGHTS_FILE
from services.config.adapters.peft_config import CONFIG_FILE
from services.config.admin import uploads
from services.config.admin.uploads import MAX_UPLOADS
from tests.fakes.config_plane import ConfigPlane
from tests.fakes.mutants import without
from tests.fakes.peft_files import peft_files


@pytest.fixture
async def plane(tmp_path):
    plane = ConfigPlane(tmp_path)
    await plane.new_model()
    await plane.new_pool()
    for name in ("acme", "globex", *(f"t{number}" for number in range(MAX_UPLOADS))):
        await plane.new_tenant(name)
    return plane


def good_files():
    config, weights, _ = peft_files()
    return [(CONFIG_FILE, config), (WEIGHTS_FILE, weights)]


async def pieces_of(tenant, waiting, go_on):
    yield pb.RegisterAdapterRequest(
        header=pb.AdapterHeader(parent=f"tenants/{tenant}", adapter_id="sea", base_model="models/m")
    )
    waiting.set()
    await go_on.wait()
    for name, data in good_files():
        yield pb.RegisterAdapterRequest(chunk=pb.FileChunk(file=name, data=data))


class Stalled:
    """An upload that sends a header, and the rest on demand."""

    def __init__(self, plane, tenant):
        self.waiting, self.go_on = asyncio.Event(), asyncio.Event()
        pieces = pieces_of(tenant, self.waiting, self.go_on)
        self.task = asyncio.create_task(plane.admin.RegisterAdapter(pieces, plane.operator))

    async def end(self):
        self.go_on.set()
        return await self.task


async def stall(plane, *tenants):
    found = [Stalled(plane, tenant) for tenant in tenants]
    for upload in found:
        await upload.waiting.wait()
    return found


async def others_are_served(plane):
    """One tenant tries to hold every place while another registers an adapter."""
    mine = [Stalled(plane, "acme") for _ in range(MAX_UPLOADS)]
    for upload in mine:
        await upload.waiting.wait()
        # A refused upload is read to its end.
        upload.go_on.set() if upload is not mine[0] else None
    try:
        return (await plane.register("globex", good_files())).name
    finally:
        for upload in mine:
            upload.go_on.set()
        ended = await asyncio.gather(*(upload.task for upload in mine), return_exceptions=True)
        plane.refused = [error for error in ended if isinstance(error, ResourceExhaustedError)]


async def test_one_tenant_holds_one_place(plane):
    assert await others_are_served(plane) == "tenants/globex/adapters/sea"
    assert len(plane.refused) == MAX_UPLOADS - 1
    assert {error.reason for error in plane.refused} == {Reason.CONCURRENCY_LIMITED}
    assert all(error.retry_after_seconds for error in plane.refused)


async def test_that_test_notices_a_tenant_that_holds_many(plane):
    careless = without(uploads, "one-upload-a-tenant").UploadPlaces()
    # Each upload counts by itself.
    places, number = careless.taken, iter(range(100))
    careless.taken = lambda uid: places(f"{uid}-{next(number)}")
    plane.admin.adapters._places = careless
    stalled = [Stalled(plane, "acme") for _ in range(MAX_UPLOADS)]
    for upload in stalled:
        await upload.waiting.wait()
    with pytest.raises(ResourceExhaustedError):
        await plane.register("globex", good_files())
    for upload in stalled:
        await upload.end()


async def test_all_places_together_are_bounded_and_come_free(plane):
    stalled = await stall(plane, *(f"t{number}" for number in range(MAX_UPLOADS)))
    with pytest.raises(ResourceExhaustedError) as refused:
        await plane.register("acme", good_files())
    assert refused.value.reason is Reason.QUEUE_FULL
    await stalled[0].end()
    assert (await plane.register("acme", good_files())).versions[0].version == 1
    for upload in stalled[1:]:
        await upload.end()


async def test_a_place_comes_free_however_an_upload_ends(plane):
    (stalled,) = await stall(plane, "acme")
    stalled.task.cancel()
    await asyncio.wait([stalled.task])
    with pytest.raises(InvalidArgumentError):
        await plane.register("acme", [("evil.bin", b"x")])
    assert (await plane.register("acme", good_files())).versions[0].version == 1


async def test_who_sends_nothing_more_keeps_no_place(plane, monkeypatch):
    monkeypatch.setattr(uploads, "IDLE_SECONDS", 0.0)
    for pieces in (_nothing(), pieces_of("globex", asyncio.Event(), asyncio.Event())):
        with pytest.raises(DeadlineExceededError, match="nothing more came"):
            await plane.admin.RegisterAdapter(pieces, plane.operator)
    monkeypatch.undo()
    assert (await plane.register("globex", good_files())).versions[0].version == 1


async def _nothing():
    await asyncio.Event().wait()
    yield pb.RegisterAdapterRequest()
