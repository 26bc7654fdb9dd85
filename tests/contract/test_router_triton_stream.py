from __future__ import annotations

import asyncio
import contextlib
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

import grpc
import pytest

from services.router.backends import triton_stream
from services.router.backends.backend import (
    AdapterMissError,
    AdapterUse,
    BackendError,
    BackendRejectedError,
    BackendUnavailableError,
    DispatchRequest,
)
from services.router.backends.channels import EndpointChannels
from services.router.backends.triton_health import TritonProbe
from services.router.backends.triton_stream import TritonStreamBackend
from services.router.shaping import Parameters
from tests.fakes.kserve_script import ScriptedKServe, failure, serve_kserve, tokens

LORA_ID = (7 << 40) | 1
REQUEST = DispatchRequest(
    "id-1", "tensorrt_llm", [5, 6], Parameters(16, 0.0, 1.0, 0, 5, ()), 2, 2, AdapterUse(LORA_ID, 7, None)
)


@asynccontextmanager
async def speaking_to(folder, scene):
    target = f"unix:{folder}/kserve.sock"
    servicer = ScriptedKServe(scene)
    server = await serve_kserve(target, servicer)
    try:
        async with EndpointChannels(None) as channels, TritonStreamBackend(channels, 0.5) as backend:
            yield servicer, backend, target
    finally:
        await server.stop(0)


async def everything(backend, target, timeout_seconds=5.0):
    async with aclosing(backend.generate(target, REQUEST, timeout_seconds)) as chunks:
        return [chunk async for chunk in chunks]


async def test_tokens_come_as_they_are_sent_and_end_with_a_content_final(tmp_path):
    async def scene(request, send):
        await send(tokens(request.id, [9]))
        await send(tokens(request.id, []))
        await send(tokens(request.id, [10, 11], final=True))

    async with speaking_to(tmp_path, scene) as (servicer, backend, target):
        chunks = await everything(backend, target)
    assert [chunk.token_ids for chunk in chunks] == [(9,), (), (10, 11)]
    assert [chunk.final for chunk in chunks] == [False, False, True]
    assert servicer.requests[0].id == "id-1"


@pytest.mark.parametrize("bare", [True, False])
async def test_an_empty_final_ends_the_answer_too(tmp_path, bare):
    async def scene(request, send):
        await send(tokens(request.id, [9]))
        await send(tokens(request.id, [], final=True, bare=bare))

    async with speaking_to(tmp_path, scene) as (_, backend, target):
        chunks = await everything(backend, target)
    assert [(chunk.token_ids, chunk.final) for chunk in chunks] == [((9,), False), ((), True)]


async def refusal(folder, scene, timeout_seconds=5.0) -> BackendError:
    async with speaking_to(folder, scene) as (_, backend, target):
        with pytest.raises(BackendError) as error:
            await everything(backend, target, timeout_seconds)
    return error.value


async def test_an_answer_to_somebody_else_is_refused(tmp_path):
    async def scene(request, send):
        await send(tokens("id-2", [9], final=True))

    assert isinstance(await refusal(tmp_path, scene), BackendRejectedError)


async def test_a_miss_is_known_by_its_text(tmp_path):
    async def scene(request, send):
        await send(failure(f"Executor failed ... LoRA task {LORA_ID} not found in cache. Please send ..."))

    error = await refusal(tmp_path, scene)
    assert isinstance(error, AdapterMissError)
    assert error.lora_id == LORA_ID


async def test_a_stream_that_ends_early_is_a_broken_server(tmp_path):
    async def scene(request, send):
        await send(tokens(request.id, [9]))

    error = await refusal(tmp_path, scene)
    assert isinstance(error, BackendUnavailableError)
    assert error.broken


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, BackendUnavailableError),
        (grpc.StatusCode.CANCELLED, BackendUnavailableError),
        (grpc.StatusCode.INTERNAL, BackendRejectedError),
    ],
)
async def test_a_status_of_the_servers_is_never_ours(tmp_path, code, kind):
    """Even CANCELLED, which grpc.aio turns into a cancellation of whoever reads."""

    class Aborting(ScriptedKServe):
        async def ModelStreamInfer(self, request_iterator, context):
            await context.abort(code, "/secret/path.cpp")

    target = f"unix:{tmp_path}/kserve.sock"
    server = await serve_kserve(target, Aborting(lambda request, send: asyncio.sleep(0)))
    async with EndpointChannels(None) as channels, TritonStreamBackend(channels) as backend:
        with pytest.raises(kind) as error:
            await everything(backend, target)
    await server.stop(0)
    assert "/secret" not in str(error.value)


async def test_nobody_there_is_a_broken_server(tmp_path):
    async with EndpointChannels(None) as channels, TritonStreamBackend(channels) as backend:
        with pytest.raises(BackendUnavailableError) as error:
            await everything(backend, f"unix:{tmp_path}/none.sock")
    assert error.value.broken


async def test_a_server_that_says_nothing_is_given_up_at_the_deadline(tmp_path):
    async def scene(request, send):
        await asyncio.Event().wait()

    error = await refusal(tmp_path, scene, timeout_seconds=0.2)
    assert isinstance(error, BackendUnavailableError)
    assert not error.broken


async def left_behind(folder, *, heeds_stop=True):
    """A reader leaves after the first token; what became of the request."""

    async def scene(request, send):
        await send(tokens(request.id, [9]))
        await asyncio.Event().wait()

    async with speaking_to(folder, scene) as (servicer, backend, target):
        servicer.heeds_stop = heeds_stop
        async with aclosing(backend.generate(target, REQUEST, 5.0)) as chunks:
            assert (await anext(chunks)).token_ids == (9,)
        _, unfinished = await asyncio.wait(set(backend._tasks), timeout=5)
        assert not unfinished
        heard = {asyncio.ensure_future(event.wait()) for event in (servicer.stopped, servicer.cancelled)}
        await asyncio.wait(heard, timeout=5, return_when=asyncio.FIRST_COMPLETED)
        for waiting in heard:
            waiting.cancel()
        return servicer


async def test_leaving_stops_the_request_by_message_and_cancels_no_call(tmp_path):
    """A tritonserver can crash when a call is cancelled while it answers it."""
    servicer = await left_behind(tmp_path)
    assert servicer.stopped.is_set()
    assert not servicer.cancelled.is_set()


async def test_that_test_notices_a_backend_that_cancels_the_call(tmp_path, monkeypatch):
    monkeypatch.setattr(TritonStreamBackend, "_end", lambda backend, target, stream, *_: stream.cut_off())
    assert (await left_behind(tmp_path)).cancelled.is_set()


async def test_a_server_that_does_not_heed_a_stop_is_cut_off(tmp_path):
    servicer = await left_behind(tmp_path, heeds_stop=False)
    await asyncio.wait_for(servicer.cancelled.wait(), 2)


async def test_one_stop_reaches_one_request(tmp_path):
    async def scene(request, send):
        await send(tokens(request.id, [9]))
        await stopped.wait()
        await send(tokens(request.id, [10], final=True))

    stopped = asyncio.Event()
    other = replace(REQUEST, request_id="id-2")
    async with (
        speaking_to(tmp_path, scene) as (servicer, backend, target),
        aclosing(backend.generate(target, other, 5.0)) as stays,
    ):
        await anext(stays)
        async with aclosing(backend.generate(target, REQUEST, 5.0)) as leaves:
            await anext(leaves)
        await asyncio.wait_for(servicer.stopped.wait(), 2)
        stopped.set()
        assert (await anext(stays)).token_ids == (10,)


async def test_more_than_can_be_left_behind_are_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr(triton_stream, "_MAX_LEFT", 0)
    assert (await left_behind(tmp_path)).cancelled.is_set()


async def test_a_server_that_has_answered_ends_the_stream_itself(tmp_path):
    goes_on = asyncio.Event()

    async def scene(request, send):
        await send(tokens(request.id, [9], final=True))
        await goes_on.wait()

    async with speaking_to(tmp_path, scene) as (servicer, backend, target):
        assert len(await everything(backend, target)) == 1
        goes_on.set()
        await asyncio.wait(set(backend._tasks), timeout=5)
        assert not servicer.cancelled.is_set()
        assert not servicer.stopped.is_set()


@pytest.mark.parametrize(
    "last", [lambda request_id: tokens(request_id, [9], final=True), lambda _: failure("no")]
)
async def test_a_server_that_never_ends_its_stream_holds_nobody_up(tmp_path, last):
    async def scene(request, send):
        await send(last(request.id))
        await asyncio.Event().wait()

    async with speaking_to(tmp_path, scene) as (servicer, backend, target):
        with contextlib.suppress(BackendError):
            await asyncio.wait_for(everything(backend, target, 30.0), 3)
        await asyncio.wait_for(servicer.cancelled.wait(), 5)


async def test_a_cancelled_reader_stops_the_request_by_message(tmp_path):
    started = asyncio.Event()

    async def scene(request, send):
        started.set()
        await asyncio.Event().wait()

    async with speaking_to(tmp_path, scene) as (servicer, backend, target):
        reading = asyncio.create_task(everything(backend, target))
        await asyncio.wait_for(started.wait(), 2)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await asyncio.wait_for(servicer.stopped.wait(), 2)
        assert not servicer.cancelled.is_set()


async def test_a_reader_that_stands_still_holds_the_server_back(tmp_path):
    """What is read ahead of a slow reader is bounded here, and by HTTP/2 behind it."""
    sent = 0

    async def scene(request, send):
        nonlocal sent
        while True:
            await send(tokens(request.id, [9] * 1000))
            sent += 1

    async with (
        speaking_to(tmp_path, scene) as (_, backend, target),
        aclosing(backend.generate(target, REQUEST, 30.0)) as chunks,
    ):
        await anext(chunks)
        said = -1
        while said != (said := sent):  # noqa: ASYNC110 - waits for something not to happen
            await asyncio.sleep(0.1)
        assert sent < 5000
        for _ in range(100):
            await anext(chunks)


async def test_a_channel_that_closes_under_a_request_is_a_broken_server_and_no_cancellation(tmp_path):
    started = asyncio.Event()

    async def scene(request, send):
        started.set()
        await asyncio.Event().wait()

    async with speaking_to(tmp_path, scene) as (_, backend, target):
        reading = asyncio.create_task(everything(backend, target))
        await asyncio.wait_for(started.wait(), 2)
        await backend._channels._open[target].channel.close()
        with pytest.raises(BackendUnavailableError) as error:
            await reading
    assert error.value.broken


async def test_the_probe_asks_for_server_and_model(tmp_path):
    servicer = ScriptedKServe(lambda request, send: asyncio.sleep(0))
    target = f"unix:{tmp_path}/kserve.sock"
    server = await serve_kserve(target, servicer)
    async with EndpointChannels(None) as channels:
        probe = TritonProbe(channels)
        assert await probe.ready(target, "tensorrt_llm", 2.0)
        assert not await probe.ready(target, "another", 2.0)
        assert not await probe.ready(f"unix:{tmp_path}/none.sock", "tensorrt_llm", 2.0)
        servicer.hang = True
        with pytest.raises(TimeoutError):
            await probe.ready(target, "tensorrt_llm", 0.1)
    await server.stop(0)
