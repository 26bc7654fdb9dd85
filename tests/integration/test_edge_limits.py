"""What the edge bounds, so that no caller takes it from the others: time, places, rate, memory."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import grpc
import pytest

from services.edge.listener_specs import HEALTH
from services.edge.messages import pack
from services.edge.spec import EdgeLimits
from tests.integration.edge_process import ASK, EDIT, STREAM, changed_filter, running_edge

pytestmark = pytest.mark.integration

EXHAUSTED, UNAVAILABLE = grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE
SOON_SECONDS = 30.0
USUAL = EdgeLimits()


@pytest.fixture
async def edge():
    async with running_edge() as running:
        yield running


async def silent(port):
    """A connection that never says a word."""
    return await asyncio.open_connection("localhost", port)


async def ended(reader):
    """Wait for the other side to close."""
    async with asyncio.timeout(SOON_SECONDS):
        try:
            return await reader.read()
        except ConnectionError:
            return b""


async def test_who_does_not_shake_hands_is_let_go(edge):
    async with edge.like_this(limits=replace(USUAL, handshake_seconds=0.3)) as strict:
        for port in (strict.tenant_port, strict.operations_port):
            reader, writer = await silent(port)
            assert await ended(reader) == b""
            writer.close()


async def test_a_connection_nobody_uses_is_closed(edge):
    async with edge.like_this(limits=replace(USUAL, idle_connection_seconds=0.3)) as strict:
        reader, writer = await strict.connect(strict.tenant_port)
        assert await ended(reader) == b""
        writer.close()


async def answer_to_half_a_request(port, path, headers, edge):
    request = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/grpc\r\nTE: trailers\r\n"
    request += f"Authorization: {headers[0][1]}\r\nContent-Length: 5\r\n\r\n\0"
    reader, writer = await edge.connect(port)
    writer.write(request.encode())
    async with asyncio.timeout(SOON_SECONDS):
        head = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    return head


async def test_a_request_that_never_ends_is_answered_and_an_operators_reaches_nobody(edge):
    few = replace(USUAL, tenant_request_seconds=0.3, operations_request_seconds=0.3)
    async with edge.like_this(limits=few) as strict:
        head = await answer_to_half_a_request(strict.operations_port, EDIT, edge.operator(), strict)
        assert b"grpc-status: 4\r\n" in head
        assert edge.begun() == []
        head = await answer_to_half_a_request(strict.tenant_port, ASK, edge.caller(), strict)
        assert b"grpc-status: 4\r\n" in head


async def test_a_request_above_what_is_held_is_exhausted_and_reaches_nobody(edge):
    async with edge.channel(edge.operations_port) as channel:
        call = channel.unary_unary(EDIT)(bytes(6 << 20), metadata=edge.operator(), timeout=SOON_SECONDS)
        with pytest.raises(grpc.RpcError) as error:
            await call
        assert error.value.code() is EXHAUSTED
        assert edge.begun() == []
        call = channel.unary_unary(EDIT)(bytes((4 << 20) + 1), metadata=edge.operator(), timeout=SOON_SECONDS)
        with pytest.raises(grpc.RpcError) as error:
            await call
    # The service's own limit speaks of what it is a little above.
    assert error.value.code() is EXHAUSTED
    assert edge.begun() == [EDIT]


async def deadlines(edge, port, path, headers):
    """What services hear of callers' deadlines of none, 30 and 1000 seconds; gRPC rounds up on the wire."""
    heard = []
    async with edge.channel(port) as channel:
        for timeout in (None, 30, 1000):
            answer = await channel.unary_unary(path)(b"", metadata=headers, timeout=timeout)
            heard.append(json.loads(answer)["seconds_left"])
    return heard


async def test_a_callers_deadline_arrives_and_none_is_made_up_for_tenants(edge):
    none, short, long = await deadlines(edge, edge.tenant_port, ASK, edge.caller())
    assert none is None, "the tenant's default deadline would not apply"
    assert 0 < short < 31
    assert 900 < long < 1020
    none, short, long = await deadlines(edge, edge.operations_port, EDIT, edge.operator())
    assert 0 < short < 31
    assert 100 < long < 125
    assert 100 < none < 125


async def full_of_silence(edge):
    """Two silent connections at the tenant listener, then a third that is closed, and an operator's answer."""
    port = edge.tenant_port
    held = [await silent(port) for _ in range(2)]
    reader, writer = await silent(port)
    assert await ended(reader) == b""
    answer = await edge.operations(EDIT, edge.operator())
    for _, other in [*held, (reader, writer)]:
        other.close()
    return answer


async def test_who_fills_the_tenant_listener_does_not_lock_operators_out(edge):
    async with edge.like_this(limits=replace(USUAL, tenant_connections=2)) as strict:
        assert isinstance(await full_of_silence(strict), dict)


async def test_that_test_notices_one_count_for_both_listeners(edge):
    def shared(message):
        for listener in message.static_resources.listeners:
            listener.ignore_global_conn_limit = False
            listener.bypass_overload_manager = False

    async with edge.like_this(shared, replace(USUAL, tenant_connections=2)) as mutant:
        assert await full_of_silence(mutant) is UNAVAILABLE


async def test_each_listener_has_a_limit_of_its_own(edge):
    """Without the count of all connections, whose limit is the same."""

    def uncounted(message):
        message.overload_manager.resource_monitors = message.overload_manager.resource_monitors[:1]

    limits = replace(USUAL, tenant_connections=2, operations_connections=2)
    async with edge.like_this(uncounted, limits) as strict:
        for port in (strict.tenant_port, strict.operations_port):
            held = [await silent(port) for _ in range(2)]
            reader, writer = await silent(port)
            assert await ended(reader) == b""
            for _, other in [*held, (reader, writer)]:
                other.close()


async def test_short_of_memory_tenants_are_refused_and_operators_served(edge):
    async with edge.like_this(limits=replace(USUAL, heap_bytes=1 << 20)) as starved:
        refused = {UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
        async with asyncio.timeout(SOON_SECONDS):
            # Envoy looks at its memory four times a second.
            while isinstance(answer := await starved.tenant(ASK, starved.caller(), timeout=1), dict):
                pass
        assert answer in refused
        assert isinstance(await starved.operations(EDIT, starved.operator()), dict)


async def outcomes(edge, count, metadata, path=ASK):
    """How many of so many calls at once were exhausted."""
    async with edge.channel(edge.tenant_port) as channel:
        ask = channel.unary_unary(path)
        calls = [ask(b"", metadata=metadata, timeout=SOON_SECONDS) for _ in range(count)]
        codes = [await call.code() for call in calls]
    assert set(codes) <= {grpc.StatusCode.OK, EXHAUSTED}
    return codes.count(EXHAUSTED)


async def test_one_tenants_rate_is_not_anothers(edge):
    few = replace(USUAL, principal_requests_per_second=5, keyless_requests_per_second=5)
    async with edge.like_this(limits=few) as strict:
        assert await outcomes(strict, 60, strict.caller("greedy")) > 0
        assert await outcomes(strict, 5, strict.caller("modest")) == 0
        assert await outcomes(strict, 5, [], HEALTH) == 0
        assert await outcomes(strict, 60, [], HEALTH) > 0
        assert await outcomes(strict, 5, strict.caller("third")) == 0


async def test_that_test_notices_one_rate_for_all(edge):
    def undivided(config):
        config.descriptors = []

    few = replace(USUAL, principal_requests_per_second=5, keyless_requests_per_second=5)
    change = changed_filter("envoy.filters.http.local_ratelimit", undivided)
    async with edge.like_this(change, few) as mutant:
        assert await outcomes(mutant, 60, mutant.caller("greedy")) > 0
        assert await outcomes(mutant, 5, mutant.caller("modest")) > 0


def literal(name, value):
    """HPACK: a header never indexed, both parts in plain bytes."""
    return b"".join([b"\x10", bytes([len(name)]), name.encode(), bytes([len(value)]), value.encode()])


def frame(kind, flags, stream, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


async def survives_resets(edge, count):
    """Whether a connection outlives so many requests that are reset as soon as they are sent."""
    context = edge.tls()
    context.set_alpn_protocols(["h2"])
    port = edge.tenant_port
    reader, writer = await asyncio.open_connection("localhost", port, ssl=context)
    pseudo = {":method": "POST", ":scheme": "https", ":authority": "localhost", ":path": ASK}
    headers = b"".join(literal(name, value) for name, value in pseudo.items())
    flood = b"".join(
        frame(1, 4, stream, headers) + frame(3, 0, stream, (8).to_bytes(4, "big"))
        for stream in range(1, 2 * count, 2)
    )
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0) + flood + frame(6, 0, 0, b"survived"))
    try:
        async with asyncio.timeout(SOON_SECONDS):
            await reader.readuntil(b"survived")
    except (asyncio.IncompleteReadError, ConnectionError):
        return False
    finally:
        writer.close()
    return True


async def test_who_resets_requests_as_fast_as_they_come_loses_the_connection(edge):
    assert await survives_resets(edge, 50)
    assert not await survives_resets(edge, 400)
    assert isinstance(await edge.tenant(ASK, edge.caller()), dict)


async def test_that_test_notices_the_default_of_envoy(edge):
    def default(message):
        message.layered_runtime.layers = []

    async with edge.like_this(default) as mutant:
        assert await survives_resets(mutant, 400)


async def answered_beside_slow_readers(edge):
    """Whether calls are answered, one after the other, while so many streams of the same services are not read."""
    async with edge.channel(edge.tenant_port, ("grpc.http2.bdp_probe", 0)) as slow:
        streams = [slow.unary_stream(STREAM)(b"", metadata=edge.caller("slow")) for _ in range(48)]
        try:
            for stream in streams:
                await stream.read()
            for _ in range(20):
                if not isinstance(await edge.tenant(ASK, edge.caller(), timeout=5), dict):
                    return False
        except grpc.aio.AioRpcError:
            return False  # a connection that stands still may be given up by the service behind it
        finally:
            for stream in streams:
                stream.cancel()
    return True


async def test_who_does_not_read_leaves_room_for_the_others_answers(edge):
    assert await answered_beside_slow_readers(edge)


async def test_that_test_notices_a_connection_that_a_few_streams_fill(edge):
    def narrow(message):
        for cluster in message.static_resources.clusters:
            ((name, options),) = cluster.typed_extension_protocol_options.items()
            http = options.unpack()
            http.explicit_http_config.http2_protocol_options.initial_connection_window_size = 1 << 20
            cluster.typed_extension_protocol_options[name] = pack(http)

    async with edge.like_this(narrow) as mutant:
        assert not await answered_beside_slow_readers(mutant)


async def test_the_edge_may_open_as_many_descriptors_as_the_host_allows(edge):
    limits = await asyncio.to_thread(open, f"/proc/{edge.pid}/limits")
    with limits:
        (line,) = [line for line in limits if line.startswith("Max open files")]
    soft, hard = line.split()[3:5]
    assert soft == hard
