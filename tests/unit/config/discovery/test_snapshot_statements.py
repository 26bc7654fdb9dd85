"""Signed statements are about the snapshot that a router holds, and only while it is the newest."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from tenantry.config.v1 import config_admin_service_pb2 as admin_pb
from tenantry.config.v1 import config_discovery_service_pb2 as pb

from services.common.known_good.signed_state import SignedStatement, StatementSigner, verified
from services.common.known_good.state_digest import digest_of
from services.config.discovery import snapshot_statements
from services.config.discovery import start_gate as starts
from services.config.discovery.servicer import DiscoveryServicer
from services.config.discovery.snapshot_statements import DigestedState, SnapshotStatements
from services.config.discovery.start_gate import StartGate
from tests.fakes.config_plane import ConfigPlane
from tests.fakes.discovery_stream import Stream
from tests.fakes.mutants import without

SIGNER = StatementSigner(b"s" * 32)


@pytest.fixture
async def plane(tmp_path):
    plane = ConfigPlane(tmp_path)
    await plane.new_model()
    await plane.new_pool()
    await plane.new_tenant("acme")
    plane.current.heard()
    starts = StartGate(plane.routers)
    plane.statements = SnapshotStatements(plane.current, SIGNER, lambda: 0xC1, plane.clock, starts)
    running = asyncio.create_task(plane.statements.run())
    yield plane
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def statement_about(plane, state):
    async with asyncio.timeout(5):
        while (message := plane.statements.of(state)) is None:  # noqa: ASYNC110 - it is asked like a stream asks
            await asyncio.sleep(0.01)
    signed = SignedStatement(message.statement, message.signature, message.signer_public_key)
    return verified(signed, SIGNER.public_key)


class Held:
    """The state of a router that follows a stream."""

    def __init__(self, plane):
        self.stream = Stream(DiscoveryServicer(plane.current, plane.metrics, plane.routers, plane.statements))
        self.resources = {}

    async def until_stated(self):
        async with asyncio.timeout(10):
            async for message in self.stream.answers:
                if message.HasField("chunk"):
                    if message.chunk.kind == pb.SNAPSHOT_KIND_FULL:
                        self.resources = {}
                    self.resources.update({one.key: one for one in message.chunk.resources})
                    for key in message.chunk.removed:
                        del self.resources[key]
                    self.revision = message.chunk.revision
                    await self.stream.ack(message.chunk)
                elif message.HasField("statement"):
                    statement = message.statement
                    signed = SignedStatement(
                        statement.statement, statement.signature, statement.signer_public_key
                    )
                    return verified(signed, SIGNER.public_key)
        raise AssertionError

    @property
    def sha256(self):
        return digest_of(
            (key, one.SerializeToString(deterministic=True)) for key, one in self.resources.items()
        )


async def changes(plane):
    """Changes one after the other, some of which show or hide more than the touched key."""
    globex = "tenants/globex"
    yield await plane.new_pool("q")
    yield await plane.new_tenant("globex")
    yield await plane.call("CreateKey", admin_pb.CreateKeyRequest(parent=globex))
    yield await plane.call("SuspendTenant", admin_pb.SuspendTenantRequest(name=globex))
    yield await plane.call("DeleteTenant", admin_pb.DeleteTenantRequest(name=globex))


async def test_a_router_is_told_what_is_signed_of_what_it_holds(plane):
    held = Held(plane)
    await held.stream.hello()
    statement = await held.until_stated()
    assert (statement.cluster_id, statement.current_unix_ms) == ("c1", 1_800_000_000_000)
    async for _ in changes(plane):
        statement = await held.until_stated()
        assert (statement.state_sha256, statement.revision) == (held.sha256, held.revision)


async def test_only_the_newest_state_is_signed_and_not_between_two_histories(plane):
    older = plane.current.state
    await statement_about(plane, older)
    await plane.new_pool("q")
    assert plane.statements.of(older) is None
    newest = plane.current.state
    await statement_about(plane, newest)
    plane.current.history_ended()
    assert plane.statements.of(newest) is None


async def kept_up(plane, module):
    """Whether a digest that was advanced over changes equals that of the whole state."""
    digested = module.DigestedState(plane.current.state)
    before = plane.current.state
    async for _ in changes(plane):
        after = plane.current.state
        digested.advance(after, plane.current.touched(before, after))
        before = after
        if digested.sha256 != DigestedState(after).sha256:
            return False
    return True


async def test_a_digest_is_kept_up_with_what_is_touched(plane):
    assert await kept_up(plane, snapshot_statements)


async def test_that_test_notices_what_is_left_behind(plane):
    assert not await kept_up(plane, without(snapshot_statements, "digest-forgets-removed"))


async def test_the_time_is_that_of_etcds_last_sign_of_life(plane):
    state = plane.current.state
    await statement_about(plane, state)
    plane.clock.advance(7)
    assert (await statement_about(plane, state)).current_unix_ms == 1_800_000_000_000


async def digested(plane, monkeypatch, module):
    """How often a state is digested while a stream asks repeatedly, and whether a starting router was waited for."""
    monkeypatch.setattr(starts, "_WAIT_SECONDS_PER_RECORD", 1e6)
    count, real = 0, module.DigestedState

    class Counted(real):
        def __init__(self, state):
            nonlocal count
            count += 1
            super().__init__(state)

    monkeypatch.setattr(module, "DigestedState", Counted)
    monkeypatch.setattr(module, "_PAUSE_SECONDS", 0.0)
    made = module.SnapshotStatements(
        plane.current, SIGNER, lambda: 0xC1, plane.clock, StartGate(plane.routers)
    )
    running = asyncio.create_task(made.run())
    session, state = plane.routers.connect("starts"), plane.current.state
    for _ in range(100):
        made.of(state)
        await asyncio.sleep(0.003)
        if count:
            break
    waited = count == 0
    plane.routers.applied(session, state.revision, state.records, state.history)
    async with asyncio.timeout(5):
        while made.of(state) is None:  # noqa: ASYNC110 - it is asked like a stream asks
            await asyncio.sleep(0)
    for _ in range(50):
        await asyncio.sleep(0.001)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return count, waited


async def test_a_state_is_digested_once_and_after_the_routers_that_start(plane, monkeypatch):
    assert await digested(plane, monkeypatch, snapshot_statements) == (1, True)


async def test_that_test_notices_a_second_digest_and_one_that_does_not_wait(plane, monkeypatch):
    asked_again = without(snapshot_statements, "one-digest-for-all-askers")
    assert (await digested(plane, monkeypatch, asked_again))[0] > 1
    hasty = without(snapshot_statements, "digest-waits-for-routers")
    assert not (await digested(plane, monkeypatch, hasty))[1]
