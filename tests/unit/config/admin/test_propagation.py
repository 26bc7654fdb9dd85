"""WaitForPropagation and ListRouters over streams in the same process."""

from __future__ import annotations

import asyncio
import time

import pytest
from tenantry.config.v1 import config_admin_service_pb2 as pb
from tenantry.config.v1 import credential_pb2
from tenantry.config.v1 import router_status_pb2 as status_pb

from services.common.errors import (
    InvalidArgumentError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnauthenticatedError,
)
from services.config.admin import propagation
from services.config.discovery import servicer as discovery_servicer
from services.config.discovery.servicer import DiscoveryServicer
from tests.fakes.config_plane import Call, ConfigPlane
from tests.fakes.discovery_stream import Stream
from tests.fakes.mutants import without
from tests.fakes.patience import promised


class Waiting(Call):
    """A call with a deadline."""

    def __init__(self, key: str, seconds: float | None) -> None:
        super().__init__(key)
        self.seconds = seconds

    def time_remaining(self) -> float | None:
        return self.seconds


class Mesh:
    """Routers' streams of one servicer; each gives signs of life."""

    def __init__(self, plane: ConfigPlane) -> None:
        self.plane = plane
        self.servicer = DiscoveryServicer(plane.current, plane.metrics, plane.routers)
        self.streams: list[Stream] = []

    async def router(self, name: str) -> Stream:
        stream = Stream(self.servicer)
        await stream.hello(name)
        self.streams.append(stream)
        return stream

    async def following(self, name: str) -> Stream:
        stream = await self.router(name)
        await stream.ack(await stream.next("chunk"))
        while self.plane.routers.progress(self.plane.current.state.revision).missing:
            await stream.next("heartbeat")
        return stream

    def ask(self, revision: int = 0, seconds: float | None = 5.0, key: str | None = None):
        caller = Waiting(key or self.plane.operator._key, seconds)
        request = pb.WaitForPropagationRequest(revision=revision)
        return asyncio.create_task(self.plane.call("WaitForPropagation", request, caller))

    async def tenant_admin(self) -> str:
        key = credential_pb2.Key(role=credential_pb2.OPERATOR_ROLE_TENANT_ADMIN, role_tenant="tenants/acme")
        made = await self.plane.call("CreateKey", pb.CreateKeyRequest(parent="operators/ann", key=key))
        return str(made.secret)


@pytest.fixture
async def mesh(tmp_path):
    plane = ConfigPlane(tmp_path)
    await plane.new_model()
    await plane.new_pool()
    await plane.new_tenant("acme")
    mesh = Mesh(plane)
    yield mesh
    for stream in mesh.streams:
        await stream.answers.aclose()


async def test_it_waits_until_the_last_router_has_applied(mesh):
    first, second = await mesh.following("r1"), await mesh.following("r2")
    await mesh.plane.new_tenant("globex")
    revision = mesh.plane.current.state.revision
    asked = mesh.ask(revision)
    await first.ack(await first.next("chunk"))
    late = await second.next("chunk")
    await first.next("heartbeat")
    assert not asked.done()
    await second.ack(late)
    await second.next("heartbeat")
    answer = await asked
    assert (answer.revision, answer.complete, answer.applied_routers) == (revision, True, 2)
    assert not answer.missing


async def test_without_a_revision_it_waits_for_the_newest_one_there_is(mesh):
    await mesh.following("r1")
    answer = await mesh.ask()
    assert (answer.revision, answer.complete) == (mesh.plane.current.state.revision, True)


async def test_revisions_that_change_nothing_are_not_waited_for(mesh):
    await mesh.following("r1")
    mesh.plane.store.put({"/elsewhere": b"1"})
    mesh.plane.current.apply([], mesh.plane.store._revision)
    started = time.monotonic()
    assert (await mesh.ask(mesh.plane.store._revision)).complete
    assert time.monotonic() - started < promised(1.0)


async def test_a_slow_router_is_named_before_the_deadline_and_is_no_error(mesh, monkeypatch):
    monkeypatch.setattr(propagation, "ANSWER_SECONDS", 1.0)
    await mesh.following("r1")
    slow = await mesh.following("slow")
    before = mesh.plane.current.state.revision
    await mesh.plane.new_tenant("globex")
    await mesh.streams[0].ack(await mesh.streams[0].next("chunk"))
    await slow.next("chunk")
    await mesh.streams[0].next("heartbeat")
    started = time.monotonic()
    answer = await mesh.ask(seconds=2.0)
    assert 0.9 < time.monotonic() - started < 2.0
    assert (answer.complete, answer.applied_routers) == (False, 1)
    (missing,) = answer.missing
    assert (missing.router, missing.state) == ("slow", status_pb.ROUTER_STATE_APPLYING)
    assert missing.applied_revision == before


async def test_no_time_left_is_answered_at_once(mesh):
    await mesh.router("r1")
    assert not (await mesh.ask(10**9, seconds=0.05)).complete


async def test_a_revision_that_does_not_come_ends_with_the_longest_wait(mesh, monkeypatch):
    monkeypatch.setattr(propagation, "MAX_WAIT_SECONDS", 0.3)
    await mesh.following("r1")
    for seconds in (None, 1e9):
        answer = await mesh.ask(10**9, seconds=seconds)
        assert not answer.complete
        assert [router.state for router in answer.missing] == [status_pb.ROUTER_STATE_APPLYING]


async def test_a_refusal_ends_the_wait_once_all_others_are_done(mesh):
    bad, good = await mesh.following("bad"), await mesh.following("good")
    await mesh.plane.new_tenant("globex")
    asked = mesh.ask(seconds=30.0)
    await bad.nack(await bad.next("chunk"), "tenants/uid-of-globex: no")
    await bad.next("heartbeat")
    held_up = await good.next("chunk")
    assert not asked.done()
    await good.ack(held_up)
    await good.next("heartbeat")
    answer = await asyncio.wait_for(asked, 15)
    (refused,) = answer.missing
    assert (refused.router, refused.state) == ("bad", status_pb.ROUTER_STATE_REFUSED)
    assert refused.refused_revision == answer.revision
    assert list(refused.reasons) == ["tenants/uid-of-globex: no"]


async def test_a_tenant_admin_may_wait_and_reads_no_reason(mesh):
    key = await mesh.tenant_admin()
    bad = await mesh.router("bad")
    await bad.nack(await bad.next("chunk"), "tenants/uid-of-globex: no")
    await bad.next("heartbeat")
    (shown,) = (await mesh.ask(key=key)).missing
    assert (shown.state, list(shown.reasons)) == (status_pb.ROUTER_STATE_REFUSED, [])
    (whole,) = (await mesh.ask()).missing
    assert list(whole.reasons) == ["tenants/uid-of-globex: no"]
    broken = without(propagation, "reasons-for-platform-admins")
    careless = broken.PropagationAdmin(mesh.plane.edits, mesh.plane.routers, mesh.plane.recalled)
    (leaked,) = (await careless.wait(pb.WaitForPropagationRequest(), Waiting(key, 5.0))).missing
    assert list(leaked.reasons) == ["tenants/uid-of-globex: no"]


async def answers_to_a_tenant_admin(mesh, module, revisions):
    """The answers to a tenant-admin of acme, after another tenant was edited."""
    key = await mesh.tenant_admin()
    own = mesh.plane.current.state.revision
    await mesh.plane.new_tenant("globex")
    await mesh.following("r1")
    admin = module.PropagationAdmin(mesh.plane.edits, mesh.plane.routers, mesh.plane.recalled)
    found = []
    for after_own in revisions:
        request = pb.WaitForPropagationRequest(revision=own + after_own if after_own else 0)
        found.append(await admin.wait(request, Waiting(key, 0.2)))
    return own, found


async def test_a_tenant_admin_waits_for_its_own_revisions_and_learns_of_no_other(mesh):
    own, (newest, later) = await answers_to_a_tenant_admin(mesh, propagation, [0, 1])
    assert (newest.revision, newest.complete, newest.applied_routers) == (own, True, 1)
    assert (later.complete, later.applied_routers, list(later.missing)) == (False, 0, [])
    assert (await mesh.ask()).revision > own


async def test_that_test_notices_a_tenant_admin_that_can_ask_for_any_revision(mesh):
    telling = without(propagation, "own-revisions-only")
    _, (later,) = await answers_to_a_tenant_admin(mesh, telling, [1])
    assert later.complete


async def test_a_tenant_admin_is_shown_no_revision_of_a_router(mesh):
    key = await mesh.tenant_admin()
    stream = await mesh.following("r1")
    await stream.answers.aclose()
    tenant = await mesh.plane.call("GetTenant", pb.GetTenantRequest(name="tenants/acme"))
    tenant.config.weight = 7
    await mesh.plane.call("UpdateTenant", pb.UpdateTenantRequest(tenant=tenant))
    mesh.plane.clock.advance(3.0)
    (missing,) = (await mesh.ask(key=key)).missing
    assert (missing.router, missing.applied_revision, missing.refused_revision) == ("r1", 0, 0)


async def test_a_router_that_went_is_named_and_one_that_returns_counts_again(mesh):
    stream = await mesh.following("r1")
    await stream.answers.aclose()
    await mesh.plane.new_tenant("globex")
    mesh.plane.clock.advance(3.0)
    answer = await mesh.ask(seconds=30.0)
    assert [(r.router, r.state) for r in answer.missing] == [("r1", status_pb.ROUTER_STATE_UNREACHABLE)]
    await mesh.following("r1")
    assert (await mesh.ask()).complete


async def test_a_second_stream_under_a_name_ends_the_first(mesh, monkeypatch):
    monkeypatch.setattr(discovery_servicer, "REPLACED_SECONDS", 0.01)
    older = await mesh.following("r1")
    newer = await mesh.following("r1")
    with pytest.raises(Exception, match="another stream"):
        await older.next("heartbeat")
    await newer.next("heartbeat")
    assert (await mesh.ask()).complete


async def test_a_report_is_a_sign_of_life_and_calls_for_no_heartbeat(mesh):
    stream = await mesh.following("r1")
    mesh.plane.clock.advance(10.0)
    (silent,) = mesh.plane.routers.routers()
    started = time.monotonic()
    for _ in range(5):
        await stream.report()
    await stream.next("heartbeat")
    assert time.monotonic() - started > 0.8 * discovery_servicer.HEARTBEAT_SECONDS
    (heard,) = mesh.plane.routers.routers()
    assert heard.heard_wall_seconds == silent.heard_wall_seconds + 10.0


async def test_it_waits_for_routers_to_be_recalled_first(mesh):
    mesh.plane.recalled.clear()
    asked = mesh.ask(seconds=30.0)
    await asyncio.sleep(0)
    assert not asked.done()
    mesh.plane.routers.recall("from-before", 1, 0.0)
    mesh.plane.clock.advance(3.0)
    mesh.plane.recalled.set()
    assert [router.router for router in (await asked).missing] == ["from-before"]


async def test_waits_are_bounded_and_one_operator_cannot_have_them_all(mesh, monkeypatch):
    monkeypatch.setattr(propagation, "MAX_WAITS_OF_ONE_KEY", 2)
    monkeypatch.setattr(propagation, "MAX_WAITS", 3)
    other = await mesh.tenant_admin()
    held = [mesh.ask(10**9), mesh.ask(10**9)]
    await asyncio.sleep(0)
    with pytest.raises(ResourceExhaustedError):
        await mesh.ask(10**9)
    held.append(mesh.ask(10**9, key=other))
    await asyncio.sleep(0)
    with pytest.raises(ResourceExhaustedError):
        await mesh.ask(10**9, key=other)
    for wait in held:
        wait.cancel()
    await asyncio.gather(*held, return_exceptions=True)
    assert (await mesh.ask(seconds=0.1)).complete


async def test_who_may_ask(mesh):
    key = await mesh.tenant_admin()
    with pytest.raises(PermissionDeniedError):
        await mesh.plane.call("ListRouters", pb.ListRoutersRequest(), Call(key))
    with pytest.raises(UnauthenticatedError):
        await mesh.ask(key="nonsense")
    with pytest.raises(InvalidArgumentError):
        await mesh.ask(-1)


async def test_routers_are_listed_by_name_in_pages(mesh):
    for name in ("r3", "r1", "r2"):
        await mesh.following(name)
    first = await mesh.plane.call("ListRouters", pb.ListRoutersRequest(page_size=2))
    assert [router.router for router in first.routers] == ["r1", "r2"]
    assert {router.state for router in first.routers} == {status_pb.ROUTER_STATE_CURRENT}
    rest = await mesh.plane.call("ListRouters", pb.ListRoutersRequest(page_token=first.next_page_token))
    assert [router.router for router in rest.routers] == ["r3"]
    assert not rest.next_page_token
