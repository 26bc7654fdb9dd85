"""Calls that gRPC would refuse in its own words get our statuses: over a real channel, with raw bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from services.common.errors import Error, InvalidArgumentError, Reason, UnimplementedError
from services.common.rpc import interceptors
from services.common.rpc import server as server_module
from services.common.rpc.channel import open_channel
from services.common.rpc.health import HealthBoard
from services.common.rpc.server import build_server
from services.common.rpc.status import from_rpc_error
from tests.fakes.mutants import changed

# A field of two bytes of which one is there, and text that is not UTF-8.
UNREADABLE = (b"\x0a\x02x", b"\x0a\x01\xff", b"\xff\xff\xff")
KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


class Echo:
    """One method of every arity."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.hold = asyncio.Event()
        self.hold.set()

    async def unary_unary(self, request, context):
        self.begun.set()
        await self.hold.wait()
        return request

    async def unary_stream(self, request, context):
        self.begun.set()
        await self.hold.wait()
        yield request

    async def stream_unary(self, requests, context):
        return [request async for request in requests][-1]

    async def stream_stream(self, requests, context):
        async for request in requests:
            yield request

    def register(self, server: grpc.aio.Server) -> None:
        handlers = {
            kind: getattr(grpc, f"{kind}_rpc_method_handler")(
                getattr(self, kind),
                request_deserializer=StringValue.FromString,
                response_serializer=StringValue.SerializeToString,
            )
            for kind in KINDS
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))


@asynccontextmanager
async def served(folder, echo: Echo, max_concurrent_rpcs: int | None = None) -> AsyncIterator[Any]:
    target = f"unix:{folder}/echo.sock"
    server = build_server(
        listen=[target],
        register=echo.register,
        service_names=[],
        health=HealthBoard([]),
        max_concurrent_rpcs=max_concurrent_rpcs,
    )
    await server.start()
    try:
        async with open_channel(target) as channel:
            yield channel
    finally:
        await server.stop(0)


async def sent(channel, method: str, kind: str, data: bytes) -> Any:
    """The answer to raw bytes, or the error."""
    call = getattr(channel, kind)(method)
    request = iter([data]) if kind.startswith("stream") else data
    try:
        if kind.endswith("unary"):
            return await call(request, timeout=10)
        return b"".join([piece async for piece in call(request, timeout=10)])
    except grpc.aio.AioRpcError as error:
        answered = from_rpc_error(error)
    assert "Unexpected" not in answered.message
    return answered


@pytest.mark.parametrize("kind", KINDS)
async def test_a_request_that_does_not_parse_is_the_callers_mistake(tmp_path, kind, caplog):
    async with served(tmp_path, Echo()) as channel:
        good = StringValue(value="x").SerializeToString()
        assert await sent(channel, f"/test.Echo/{kind}", kind, good) == good
        for data in UNREADABLE:
            error = await sent(channel, f"/test.Echo/{kind}", kind, data)
            assert isinstance(error, InvalidArgumentError)
            assert (error.reason, error.violations[0].field) == (Reason.INVALID_FIELD, "request")
    assert caplog.records == []


@pytest.mark.parametrize(
    ("service", "kind"),
    [
        ("grpc.health.v1.Health/Check", "unary_unary"),
        ("grpc.health.v1.Health/Watch", "unary_stream"),
        ("grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "stream_stream"),
    ],
)
async def test_so_it_is_for_the_services_that_come_with_grpc(tmp_path, service, kind):
    async with served(tmp_path, Echo()) as channel:
        error = await sent(channel, f"/{service}", kind, b"\xff")
        assert isinstance(error, InvalidArgumentError)
        assert error.reason is Reason.INVALID_FIELD


@pytest.mark.parametrize("kind", KINDS)
async def test_an_unknown_method_has_a_reason(tmp_path, kind):
    async with served(tmp_path, Echo()) as channel:
        for method in ("/test.Echo/none", "/none.None/none"):
            error = await sent(channel, method, kind, b"anything")
            assert isinstance(error, UnimplementedError)
            assert error.reason is Reason.METHOD_NOT_FOUND


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream"])
async def test_one_call_too_many_has_a_reason_and_a_time_to_try_again(tmp_path, kind):
    echo = Echo()
    echo.hold.clear()
    data = StringValue(value="x").SerializeToString()
    async with served(tmp_path, echo, max_concurrent_rpcs=1) as channel:
        running = asyncio.create_task(sent(channel, f"/test.Echo/{kind}", kind, data))
        await asyncio.wait_for(echo.begun.wait(), 10)
        for _ in range(3):
            error = await sent(channel, f"/test.Echo/{kind}", kind, data)
            assert isinstance(error, Error)
            assert (error.reason, error.retry_after_seconds) == (Reason.SERVER_BUSY, 1.0)
        echo.hold.set()
        assert await running == data
        # What was refused and what ended holds no place.
        assert await sent(channel, f"/test.Echo/{kind}", kind, data) == data


HEALTH = "/grpc.health.v1.Health/Check"


async def health_beside_calls(folder) -> Any:
    echo = Echo()
    echo.hold.clear()
    data = StringValue(value="x").SerializeToString()
    async with served(folder, echo, max_concurrent_rpcs=1) as channel:
        running = asyncio.create_task(sent(channel, "/test.Echo/unary_unary", "unary_unary", data))
        await asyncio.wait_for(echo.begun.wait(), 10)
        answers = [await sent(channel, HEALTH, "unary_unary", b"") for _ in range(3)]
        echo.hold.set()
        await running
    return answers


async def test_a_health_check_is_never_refused(tmp_path):
    assert all(isinstance(answer, bytes) for answer in await health_beside_calls(tmp_path))


async def test_mutant_that_counts_health_checks_refuses_them(tmp_path, monkeypatch):
    careless = changed(interceptors, "health-is-never-refused", "return self._calls")
    monkeypatch.setattr("services.common.rpc.server.ErrorInterceptor", careless.ErrorInterceptor)
    assert all(answer.reason is Reason.SERVER_BUSY for answer in await health_beside_calls(tmp_path))


async def test_mutant_that_lets_the_parser_raise_shows_its_exception(tmp_path, monkeypatch):
    careless = changed(interceptors, "parser-is-silent", "raise")
    monkeypatch.setattr("services.common.rpc.server.ErrorInterceptor", careless.ErrorInterceptor)
    async with served(tmp_path, Echo()) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await channel.unary_unary("/test.Echo/unary_unary")(UNREADABLE[0], timeout=10)
        assert error.value.code() is grpc.StatusCode.UNKNOWN
        assert "DecodeError" in (error.value.details() or "")


async def served_beside_reflection(folder) -> list[bool]:
    """Whether a health check and a call are answered while one caller holds reflection streams open."""
    async with served(folder, Echo(), max_concurrent_rpcs=8) as channel:
        reflect = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        open_streams = [reflect() for _ in range(200)]

        async def listed(stream) -> object:
            await stream.write(b"\x3a\x00")
            return await stream.read()

        answers = await asyncio.gather(*map(listed, open_streams), return_exceptions=True)
        assert sum(isinstance(answer, bytes) for answer in answers) <= 16
        good = StringValue(value="x").SerializeToString()
        outcomes = [
            await sent(channel, "/grpc.health.v1.Health/Check", "unary_unary", b""),
            await sent(channel, "/test.Echo/unary_unary", "unary_unary", good),
        ]
        for stream in open_streams:
            stream.cancel()
        await asyncio.gather(*(stream.code() for stream in open_streams))
        return [isinstance(outcome, bytes) for outcome in outcomes]


async def test_reflection_takes_no_place_of_other_calls(tmp_path):
    assert await served_beside_reflection(tmp_path) == [True, True]


async def test_that_test_notices_reflection_that_counts_as_any_call(tmp_path, monkeypatch):
    careless = changed(interceptors, "reflection-has-its-own-bound", "calls = self._calls")
    monkeypatch.setattr(server_module, "ErrorInterceptor", careless.ErrorInterceptor)
    assert await served_beside_reflection(tmp_path) == [False, False]


async def test_a_compressed_request_is_refused(tmp_path):
    large = StringValue(value="x" * 4096).SerializeToString()
    async with served(tmp_path, Echo()) as channel:
        call = channel.unary_unary("/test.Echo/unary_unary")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call(large, timeout=10, compression=grpc.Compression.Gzip)
        assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert await call(large, timeout=10) == large
