"""A tenant-admin at another tenant's config: every attempt ends as if that tenant did not exist."""

from __future__ import annotations

import random
from itertools import islice

import grpc
import pytest
from tenantry.config.v1 import config_admin_service_pb2 as pb

from services.common.errors import Error, PermissionDeniedError
from services.common.rpc.status import to_status
from services.config.adapters.peft import WEIGHTS_FILE
from services.config.adapters.peft_config import CONFIG_FILE
from services.config.state.operators import Operator
from tests.fakes.config_plane import Call, ConfigPlane
from tests.fakes.config_service import ConfigServicePlane
from tests.fakes.foreign_attempts import attempts, with_etag
from tests.fakes.peft_files import peft_files
from tests.fakes.two_tenants import THEIRS, build, tells
from tests.integration.mesh_access import Failure, bearer

ATTEMPTS, OVER_THE_WIRE = 1000, 50


class DeadlineCall(Call):
    def time_remaining(self):
        return 1.0


async def header_only(header):
    yield pb.RegisterAdapterRequest(header=header)


async def memory_world(folder):
    """Both tenants in a config service without processes; returns it and how our admin calls it."""
    plane = ConfigPlane(folder)
    await plane.new_model()
    await plane.new_pool()
    config, weights, _ = peft_files()

    async def register(tenant_id, adapter_id):
        return await plane.register(tenant_id, [(CONFIG_FILE, config), (WEIGHTS_FILE, weights)], adapter_id)

    world = await build(plane.call, register, random.Random(1))
    admin = DeadlineCall(world.our_key)

    async def as_admin(method, request):
        given = header_only(request) if isinstance(request, pb.AdapterHeader) else request
        try:
            answer = await getattr(plane.admin, method)(given, admin)
        except Error as error:
            return "error", to_status(error).SerializeToString(deterministic=True)
        return "answer", answer.SerializeToString(deterministic=True)

    return plane, world, as_admin


async def leaks_in(world, as_admin, count, seed=0):
    """What attempts told, and how many were refused."""
    found, refused = [], 0
    for attempt in islice(attempts(seed), count):
        made = with_etag(attempt, world.our_etag)
        sent = made.build(world.theirs)
        real = await as_admin(made.method, sent)
        invented = await as_admin(made.method, made.build(world.nobody))
        refused += real[0] == "error"
        told = tells(world, sent, real, invented)
        if told:
            found.append(f"{made.method}: {told}")
    return found, refused


async def state_of(plane):
    """Everything that is stored but for our own tenant's."""
    stored, _ = await plane.store.list("")
    return {key: item.value for key, item in stored.items()}


async def test_a_thousand_attempts_tell_and_change_nothing(tmp_path):
    plane, world, as_admin = await memory_world(tmp_path)
    before = await state_of(plane)
    found, refused = await leaks_in(world, as_admin, ATTEMPTS)
    assert found == []
    assert refused > ATTEMPTS // 2
    assert await state_of(plane) == before


@pytest.mark.integration
async def test_attempts_over_the_wire_tell_nothing_either(tmp_path):
    async with ConfigServicePlane(tmp_path) as plane:
        await plane.with_catalog()
        world = await build(plane.call, plane.register, random.Random(1))

        async def as_admin(method, request):
            given = header_only(request) if isinstance(request, pb.AdapterHeader) else request
            try:
                answer = await getattr(plane.admin, method)(given, metadata=bearer(world.our_key), timeout=10)
            except grpc.RpcError as error:
                return "error", Failure.of(error).status.SerializeToString(deterministic=True)
            return "answer", answer.SerializeToString(deterministic=True)

        name = f"tenants/{THEIRS}"
        before = await plane.call("GetTenant", pb.GetTenantRequest(name=name))
        found, refused = await leaks_in(world, as_admin, OVER_THE_WIRE, seed=1)
        assert found == []
        assert refused > OVER_THE_WIRE // 2
        assert await plane.call("GetTenant", pb.GetTenantRequest(name=name)) == before


async def test_an_adapter_of_ours_tells_nothing_of_a_pool_dedicated_to_another_tenant(tmp_path):
    plane, _, _ = await memory_world(tmp_path)
    config, weights, _ = peft_files()
    engine = "c" * 64
    await plane.new_pool("globex-other", dedicated_to=f"tenants/{THEIRS}", engine_sha256=engine)
    ours = await plane.register("acme", [(CONFIG_FILE, config), (WEIGHTS_FILE, weights)], "sea")
    assert engine not in {rendition.engine_sha256 for rendition in ours.versions[0].renditions}


async def test_mutant_that_may_see_everything_leaks(tmp_path, monkeypatch):
    _, world, as_admin = await memory_world(tmp_path)
    monkeypatch.setattr(Operator, "may_see", lambda self, record: True)
    found, _ = await leaks_in(world, as_admin, ATTEMPTS)
    assert any("the-prompt-of-globex" in leak for leak in found)


async def test_mutant_that_says_forbidden_where_it_should_say_missing_leaks(tmp_path, monkeypatch):
    _, world, as_admin = await memory_world(tmp_path)
    rightly = Operator.require_tenant

    def outspoken(self, record):
        if record is not None and not self.may_see(record):
            raise PermissionDeniedError("not yours")
        return rightly(self, record)

    monkeypatch.setattr(Operator, "require_tenant", outspoken)
    found, _ = await leaks_in(world, as_admin, 100)
    assert any("other bytes" in leak for leak in found)
