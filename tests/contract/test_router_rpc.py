from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager, suppress
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from tenantry.config.v1 import tenant_pb2
from tenantry.inference.v1 import inference_service_pb2 as pb
from tenantry.inference.v1 import inference_service_pb2_grpc as rpc

from services.common.audit.writer import EntryKind
from services.common.clock import SystemClock
from services.common.request_sizes import RECEIVED_BYTES
from services.common.rpc.channel import open_channel
from services.common.rpc.health import HealthBoard
from services.common.rpc.server import build_server
from services.router.backends.backend import DispatchRequest, Linger, TokenChunk, unwatched
from services.router.request.intake import Intake, Shares
from services.router.request.refusal_pace import RefusalPace
from services.router.request.servicer import InferenceServicer
from tests.fakes.patience import PATIENCE_SECONDS
from tests.fakes.router_config import ConfigWorld
from tests.fakes.router_pipeline import PipelineWorld, SentCall, SimulatedServer, inference_servicer, question


def one_tenant(world: ConfigWorld) -> None:
    uid = world.tenant("acme", 7)
    world.key(uid, f"key-{uid}")


class Chatterbox(SimulatedServer):
    """Sends tokens without end, many at a time."""

    said = 0

    async def generate(
        self, target: str, request: DispatchRequest, timeout_seconds: float, linger: Linger = unwatched
    ) -> AsyncGenerator[TokenChunk, None]:
        self.open_streams += 1
        self.begun.set()
        try:
            while True:
                await asyncio.sleep(0)
                self.said += 1
                yield TokenChunk((self.answer[0],) * 1000, final=False)
        finally:
            self.open_streams -= 1
            self.cancelled += 1


@asynccontextmanager
async def served(folder, server: SimulatedServer):
    """A router's listener over a simulated model server, and a stub."""
    world = PipelineWorld(folder, server, configure=one_tenant)
    tokeniser = world.state.snapshot().tenants["uid-acme"].targets["chat"].base_model.text.tokeniser
    server.answer = tokeniser.encode_prompt("hello world")
    target = f"unix:{folder}/router.sock"
    listener = build_server(
        listen=[target],
        register=inference_servicer(world.pipeline).register,
        service_names=[],
        health=HealthBoard([]),
        max_message_bytes=RECEIVED_BYTES,
        compressed=True,
    )
    await listener.start()
    try:
        async with open_channel(target) as channel:
            yield world, rpc.InferenceServiceStub(channel)
    finally:
        await listener.stop(0)


def asked(world: PipelineWorld):
    """A request and its metadata."""
    call = world.call("uid-acme")
    assert call.authorization is not None
    return question("hello"), (("authorization", call.authorization),)


async def until(true, seconds: float = PATIENCE_SECONDS) -> None:
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 - looks at plain state of several objects
            await asyncio.sleep(0.01)


async def everything(call) -> list[pb.StreamGenerateResponse]:
    return [message async for message in call]


def outcomes(world: PipelineWorld) -> list[str]:
    return [entry.meta["status"] for entry in world.audit.entries if entry.kind is EntryKind.OUTCOME]


async def test_a_caller_that_reads_nothing_and_leaves_frees_the_model_server_at_once(tmp_path):
    server = Chatterbox([])
    async with served(tmp_path, server) as (world, stub):
        request, metadata = asked(world)
        call = stub.StreamGenerate(request, metadata=metadata, timeout=60)
        await call.read()
        # Nothing is read any more: the relay stops once every buffer on the way is full.
        said = -1
        while said != (said := server.said):  # noqa: ASYNC110 - waits for something not to happen
            await asyncio.sleep(0.1)
        assert server.open_streams == 1
        call.cancel()
        await until(lambda: server.open_streams == 0)
        await until(lambda: outcomes(world) == ["CANCELLED_BY_CALLER"])
        assert world.leaks() == []


async def test_a_caller_that_leaves_mid_stream_frees_the_model_server_at_once(tmp_path):
    server = SimulatedServer([])
    server.hold.clear()
    async with served(tmp_path, server) as (world, stub):
        request, metadata = asked(world)
        call = stub.StreamGenerate(request, metadata=metadata, timeout=60)
        await asyncio.wait_for(server.begun.wait(), PATIENCE_SECONDS)
        call.cancel()
        await until(lambda: server.open_streams == 0)
        await until(lambda: outcomes(world) == ["CANCELLED_BY_CALLER"])
        assert (server.cancelled, world.leaks()) == (1, [])


async def test_a_whole_answers_caller_that_leaves_frees_the_model_server_at_once(tmp_path):
    server = SimulatedServer([])
    server.hold.clear()
    async with served(tmp_path, server) as (world, stub):
        request, metadata = asked(world)
        call = stub.Generate(request, metadata=metadata, timeout=60)
        await asyncio.wait_for(server.begun.wait(), PATIENCE_SECONDS)
        call.cancel()
        await until(lambda: server.open_streams == 0)
        await until(lambda: outcomes(world) == ["CANCELLED_BY_CALLER"])


async def test_a_server_that_dies_mid_stream_ends_it_with_a_time_to_try_again(tmp_path):
    server = SimulatedServer([])
    server.fail_after = 2
    async with served(tmp_path, server) as (world, stub):
        request, metadata = asked(world)
        call = stub.StreamGenerate(request, metadata=metadata, timeout=60)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await asyncio.wait_for(everything(call), PATIENCE_SECONDS)
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        assert details_of(error.value)[error_details_pb2.RetryInfo].retry_delay.ToNanoseconds() > 0
        assert details_of(error.value)[error_details_pb2.ErrorInfo].reason == "MODEL_SERVER_FAILED"


def details_of(error: grpc.aio.AioRpcError) -> dict:
    (raw,) = [value for key, value in error.trailing_metadata() if key == "grpc-status-details-bin"]
    found = {}
    for packed in status_pb2.Status.FromString(raw).details:
        for kind in (error_details_pb2.RetryInfo, error_details_pb2.ErrorInfo, error_details_pb2.BadRequest):
            if packed.Is(kind.DESCRIPTOR):
                message = kind()
                packed.Unpack(message)
                found[kind] = message
    return found


async def test_a_failure_that_nobody_stayed_for_is_not_logged_by_asyncio(tmp_path):
    server = SimulatedServer([])
    server.fail_after = 2
    unseen: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, found: unseen.append(found))
    async with served(tmp_path, server) as (world, _):
        request, metadata = asked(world)

        context: Any = SentCall(request, metadata[0][1])
        answers: Any = inference_servicer(world.pipeline).StreamGenerate(None, context)
        await anext(answers)
        await until(lambda: outcomes(world) == ["MODEL_SERVER_FAILED"])
        await asyncio.sleep(0)
        await answers.aclose()
        del answers
        gc.collect()
    assert unseen == []


async def test_two_keys_on_one_call_are_none(tmp_path):
    async with served(tmp_path, SimulatedServer([])) as (world, stub):
        request, metadata = asked(world)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stub.Generate(request, metadata=metadata * 2, timeout=5)
        assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
        models = await stub.ListModels(pb.ListModelsRequest(), metadata=metadata, timeout=5)
        assert [model.model for model in models.models] == ["chat"]


GENERATE = "/tenantry.inference.v1.InferenceService/Generate"


class Sender:
    """A call to `Generate` that sends nothing until it is let."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Any, timeout: float = 5.0) -> None:
        self.goes_on = asyncio.Event()
        method: Any = channel.stream_unary(GENERATE)
        self.call = method(self._pieces(), metadata=metadata, timeout=timeout)

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        await self.goes_on.wait()
        yield question("hello").SerializeToString()


async def code_without_a_request(folder, eager: bool) -> grpc.StatusCode:
    """The answer to a call with a refused key that never sends its request."""
    world = PipelineWorld(folder, SimulatedServer([]), configure=one_tenant)
    servicer = inference_servicer(world.pipeline)

    class Eager(grpc.GenericRpcHandler):
        """As generated stubs register it: gRPC reads the request first."""

        def service(self, call: Any) -> Any:
            async def generate(data: bytes, context: Any) -> Any:
                return await servicer.Generate(None, context)

            return grpc.unary_unary_rpc_method_handler(
                generate, response_serializer=pb.GenerateResponse.SerializeToString
            )

    target = f"unix:{folder}/router.sock"
    listener = build_server(
        listen=[target],
        register=(lambda made: made.add_generic_rpc_handlers((Eager(),))) if eager else servicer.register,
        service_names=[],
        health=HealthBoard([]),
    )
    await listener.start()
    try:
        async with open_channel(target) as channel:
            sender = Sender(channel, (("authorization", "Bearer no.such.key"),), timeout=1.0)
            code: grpc.StatusCode = await sender.call.code()
            return code
    finally:
        await listener.stop(0)


async def test_a_refused_key_is_answered_before_its_request_has_arrived(tmp_path):
    assert await code_without_a_request(tmp_path, eager=False) is grpc.StatusCode.UNAUTHENTICATED


async def test_that_test_notices_a_server_that_reads_first(tmp_path):
    assert await code_without_a_request(tmp_path, eager=True) is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_unfinished_requests_are_their_own_tenants_and_others_are_answered(tmp_path):
    def two(world: ConfigWorld) -> None:
        for ordinal, name in enumerate(("slow", "quick"), start=1):
            uid = world.tenant(name, ordinal, limits=tenant_pb2.Limits(concurrent_requests=8))
            world.key(uid, f"key-{uid}")

    world = PipelineWorld(tmp_path, SimulatedServer([ord("a")]), configure=two)
    target = f"unix:{tmp_path}/router.sock"
    listener = build_server(
        listen=[target],
        register=inference_servicer(world.pipeline).register,
        service_names=[],
        health=HealthBoard([]),
    )
    await listener.start()
    try:
        async with open_channel(target) as channel:
            slow = [("authorization", world.token("uid-slow", "key-uid-slow"))]
            senders = [Sender(channel, slow, timeout=60) for _ in range(40)]
            ended, waiting = await asyncio.wait(
                [asyncio.create_task(sender.call.code()) for sender in senders],
                timeout=PATIENCE_SECONDS,
                return_when=asyncio.FIRST_COMPLETED,
            )
            while len(ended) < 32:
                more, waiting = await asyncio.wait(
                    waiting, timeout=PATIENCE_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
                assert more
                ended |= more
            assert {task.result() for task in ended} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
            quick = (("authorization", world.token("uid-quick", "key-uid-quick")),)
            stub = rpc.InferenceServiceStub(channel)
            for _ in range(8):
                assert (await stub.Generate(question("hello"), metadata=quick, timeout=10)).text
            # Who was only slow is answered in the end.
            for sender in senders:
                sender.goes_on.set()
            assert [await task for task in waiting] == [grpc.StatusCode.OK] * 8
    finally:
        await listener.stop(0)
    assert world.leaks() == []


async def test_what_is_larger_than_a_request_may_be_has_a_reason_compressed_or_not(tmp_path):
    async with served(tmp_path, SimulatedServer([])) as (world, stub):
        request, metadata = asked(world)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stub.Generate(
                question("x" * (4 << 20)), metadata=metadata, timeout=10, compression=grpc.Compression.Gzip
            )
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        packed = stub.Generate(request, metadata=metadata, timeout=10, compression=grpc.Compression.Gzip)
        assert (await packed).text
        for compression in (None, grpc.Compression.Gzip):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await stub.Generate(
                    question("x" * (1 << 20)), metadata=metadata, timeout=10, compression=compression
                )
            assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            (violation,) = details_of(error.value)[error_details_pb2.BadRequest].field_violations
            assert violation.field == "request"
            assert violation.description.endswith("at most 1048576")


class Talkative(Chatterbox):
    """Ends after more than a connection takes unread."""

    async def generate(
        self, target: str, request: DispatchRequest, timeout_seconds: float, linger: Linger = unwatched
    ) -> AsyncGenerator[TokenChunk, None]:
        self.open_streams += 1
        try:
            for _ in range(220):
                yield TokenChunk((self.answer[0],) * 1000, final=False)
            yield TokenChunk((), final=True)
        finally:
            self.open_streams -= 1


async def held_by_unread_answers(folder, calls_kept: bool) -> tuple[grpc.StatusCode, grpc.StatusCode]:
    """What a tenant hears of a third call, and another of its first, while two finished answers are not read."""

    def two(world: ConfigWorld) -> None:
        for ordinal, name in enumerate(("slow", "quick"), start=1):
            uid = world.tenant(name, ordinal)
            world.key(uid, f"key-{uid}")

    server = Talkative([])
    world = PipelineWorld(folder, server, configure=two)
    server.answer = (
        world.state.snapshot()
        .tenants["uid-slow"]
        .targets["chat"]
        .base_model.text.tokeniser.encode_prompt("hello")
    )
    servicer = InferenceServicer(
        world.pipeline, Intake(Shares(calls=8, tenant_calls=2)), RefusalPace(SystemClock(), 8)
    )
    if not calls_kept:
        _given_back_with_the_answer(servicer)
    target = f"unix:{folder}/router.sock"
    listener = build_server(
        listen=[target], register=servicer.register, service_names=[], health=HealthBoard([])
    )
    await listener.start()
    try:
        # A connection whose windows do not grow.
        options = [("grpc.http2.bdp_probe", 0)]
        async with grpc.aio.insecure_channel(target, options) as channel:
            stub = rpc.InferenceServiceStub(channel)

            def metadata(name: str) -> Any:
                return (("authorization", world.token(f"uid-{name}", f"key-uid-{name}")),)

            unread = []
            for _ in range(2):
                unread.append(stub.StreamGenerate(question("hello"), metadata=metadata("slow"), timeout=60))
                await unread[-1].read()
                await until(lambda: server.open_streams == 0)
                await until(lambda: world.leaks() == [])
            third = stub.StreamGenerate(question("hello"), metadata=metadata("slow"), timeout=60)
            other = stub.StreamGenerate(question("hello"), metadata=metadata("quick"), timeout=60)
            codes = []
            for call in (third, other):
                with suppress(grpc.aio.AioRpcError):
                    await everything(call)
                codes.append(await call.code())
            for call in unread:
                while await call.read() is not grpc.aio.EOF:
                    pass
            await until(lambda: servicer._intake.held == (0, 0))
            return codes[0], codes[1]
    finally:
        await listener.stop(0)


def _given_back_with_the_answer(servicer: InferenceServicer) -> None:
    """Give a call's share back once its answer is there, read or not."""
    held: list[ExitStack] = []
    original_call, original_run = servicer._call, servicer._pipeline.run

    def call(parse: Any, context: Any, stack: ExitStack) -> Any:
        held.append(stack)
        return original_call(parse, context, stack)

    async def run(call: Any, outbox: Any) -> Any:
        stack = held[-1]
        try:
            return await original_run(call, outbox)
        finally:
            stack.close()

    servicer._call = call  # type: ignore[method-assign,assignment]
    servicer._pipeline.run = run  # type: ignore[method-assign]


async def test_who_does_not_read_its_answers_uses_up_its_own_share_of_calls(tmp_path):
    assert await held_by_unread_answers(tmp_path, calls_kept=True) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.OK,
    )


async def test_that_test_notices_calls_that_are_given_back_before_they_are_read(tmp_path):
    assert await held_by_unread_answers(tmp_path, calls_kept=False) == (
        grpc.StatusCode.OK,
        grpc.StatusCode.OK,
    )
