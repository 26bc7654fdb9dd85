"""A caller with a key, or a stranger, holds what it can: another tenant's calls and all health checks go on.

The attacks for half a minute, with figures: `make attack`.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest

from services.edge.messages import buffer, pack
from services.edge.overload import SHORTER_TIMERS
from services.edge.spec import EdgeLimits
from tests.fakes.attacked_mesh import AttackedMesh, Felt, Peak, attacked_mesh
from tests.fakes.attackers import GENERATE, REFLECT, Silence, Streams, many_pieces, message_of

pytestmark = pytest.mark.integration

CALLS = 15
MEBIBYTE = 1 << 20
MOST_HELD = 60 * MEBIBYTE
"""What a router or Envoy may grow to beside requests that never end."""
MOST_GROWN = 100 * MEBIBYTE
"""By how much a router may grow beside requests of many pieces."""
FEW = {"MAX_CONCURRENT_RPCS": "64"}


@asynccontextmanager
async def holding(mesh: AttackedMesh, path: str, token: str, connections: int, streams: int, body: bytes):
    """Streams that never end; they are all open, or refused once, from the beginning."""
    held = [Streams(path, token, streams, body) for _ in range(connections)]
    running = [asyncio.create_task(one.run(mesh.port, str(mesh.ca))) for one in held]
    try:
        await asyncio.wait_for(asyncio.gather(*(one.opened.wait() for one in held)), 60)
        yield held
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def felt_beside_pieces(mesh: AttackedMesh, token: str, size: int, compressed: bool):
    """What the victim felt, the attacker's statuses, and the router's growth."""
    async with Peak(mesh) as peak:
        attack = asyncio.create_task(
            asyncio.to_thread(many_pieces, mesh.port, str(mesh.ca), token, 2.0, size, compressed, 8)
        )
        felt = await mesh.victim_calls(CALLS)
        statuses = await attack
    return felt, set(statuses), peak.router


async def test_requests_of_many_pieces_cost_a_router_little_whoever_sends_them():
    async with attacked_mesh() as mesh:
        for token, size, compressed, allowed in (
            (mesh.revoked, 4_190_000, False, {"UNAUTHENTICATED"}),
            (mesh.revoked, 4_190_000, True, {"UNAUTHENTICATED"}),
            (mesh.attacker, 4_190_000, True, {"RESOURCE_EXHAUSTED"}),
            (mesh.attacker, MEBIBYTE, False, {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"}),
        ):
            felt, statuses, grown = await felt_beside_pieces(mesh, token, size, compressed)
            assert felt.failures == []
            assert statuses <= allowed, statuses
            assert grown < MOST_GROWN


async def test_that_test_notices_a_router_that_parses_before_it_knows_the_caller():
    async with attacked_mesh(router_module="tests.fakes.router_reading_first") as mutant:
        _, _, grown = await felt_beside_pieces(mutant, mutant.revoked, 4_190_000, True)
        assert grown > MOST_GROWN


async def felt_beside_unfinished_requests(mesh: AttackedMesh):
    async with Peak(mesh) as peak:
        body = message_of(2 * MEBIBYTE)
        async with holding(mesh, GENERATE, mesh.attacker, 2, 75, body) as held:
            felt = await mesh.victim_calls(CALLS)
    return felt, sum(one.ended for one in held), peak


async def test_unfinished_requests_of_one_key_fill_neither_envoy_nor_a_router():
    async with attacked_mesh(**FEW) as mesh:
        felt, refused, peak = await felt_beside_unfinished_requests(mesh)
    assert felt.failures == []
    assert refused >= 150 - 64 // 4
    assert peak.router < MOST_HELD
    assert peak.envoy < MOST_HELD


async def test_that_test_notices_an_edge_that_holds_requests():
    def holds(message):
        tenant = message.static_resources.listeners[0]
        (only,) = tenant.filter_chains[0].filters
        manager = only.typed_config.unpack()
        for route in manager.route_config.virtual_hosts[0].routes:
            if route.match.prefix and GENERATE.startswith(route.match.prefix):
                held = buffer.BufferPerRoute(buffer=buffer.Buffer(max_request_bytes=5 * MEBIBYTE))
                route.typed_per_filter_config["envoy.filters.http.buffer"] = pack(held)
        only.typed_config = pack(manager)

    async with attacked_mesh(change=holds, **FEW) as mutant:
        _, _, peak = await felt_beside_unfinished_requests(mutant)
        assert peak.envoy > MOST_HELD


@pytest.mark.parametrize(
    ("key", "path"), [("attacker", GENERATE), ("revoked", GENERATE), ("attacker", REFLECT)]
)
async def test_idle_streams_of_one_key_take_no_place_from_others(key, path):
    async with attacked_mesh(**FEW) as mesh, holding(mesh, path, getattr(mesh, key), 2, 100, b""):
        assert (await mesh.victim_calls(CALLS)).failures == []


async def test_that_test_notices_a_router_without_shares():
    module = "tests.fakes.router_without_shares"
    async with (
        attacked_mesh(router_module=module, **FEW) as mutant,
        holding(mutant, GENERATE, mutant.attacker, 2, 100, b""),
    ):
        assert all("takes no more calls" in failure for failure in (await mutant.victim_calls(3)).failures)


LITTLE = replace(EdgeLimits(), tenant_connections=300, handshake_seconds=30.0)


async def new_callers_beside_silence(mesh: AttackedMesh) -> int:
    """How many of eight new callers are answered a few seconds after silent connections filled the listener."""
    silence = Silence(300)
    running = asyncio.create_task(silence.run(mesh.port, str(mesh.ca), again=False))
    try:
        async with asyncio.timeout(30):
            while silence.opened + silence.refused < 300:  # noqa: ASYNC110 - counts of many tasks
                await asyncio.sleep(0.05)
        with suppress(TimeoutError):
            async with asyncio.timeout(4):
                while silence.closed < 150:  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.05)
        felt = Felt()
        await asyncio.gather(*(mesh.ask(felt) for _ in range(8)))
        return len(felt.seconds)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_silent_connections_leave_room_for_new_callers():
    async with attacked_mesh(limits=LITTLE) as mesh:
        assert await new_callers_beside_silence(mesh) == 8


async def test_that_test_notices_timers_that_never_shorten():
    def patient(message):
        actions = message.overload_manager.actions
        message.overload_manager.actions = [one for one in actions if one.name != SHORTER_TIMERS]

    async with attacked_mesh(change=patient, limits=LITTLE) as mutant:
        assert await new_callers_beside_silence(mutant) < 8
