from __future__ import annotations

import asyncio

import grpc
import pytest

from services.router.backends.backend import (
    AdapterMissError,
    BackendError,
    BackendRejectedError,
    BackendUnavailableError,
)
from services.router.backends.channels import EndpointChannels
from services.router.backends.triton_health import TritonProbe
from services.router.backends.triton_stream import TritonStreamBackend
from tests.contract.kserve_streams import LORA_ID, everything, speaking_to
from tests.fakes.kserve_script import ScriptedKServe, failure, serve_kserve, tokens
from tests.fakes.patience import PATIENCE_SECONDS


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
    """Even CANCELLED, which grpc.aio turns into a cancellation of the reader."""

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


async def test_a_channel_that_closes_under_a_request_is_a_broken_server_and_no_cancellation(tmp_path):
    started = asyncio.Event()

    async def scene(request, send):
        started.set()
        await asyncio.Event().wait()

    async with speaking_to(tmp_path, scene) as (_, backend, target):
        reading = asyncio.create_task(everything(backend, target))
        await asyncio.wait_for(started.wait(), PATIENCE_SECONDS)
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
