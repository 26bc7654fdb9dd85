"""How a stream ends that its reader leaves, and the request behind it."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import aclosing
from dataclasses import replace

import pytest

from services.router.backends import triton_stream
from services.router.backends.backend import BackendError
from services.router.backends.triton_stream import TritonStreamBackend
from tests.contract.kserve_streams import REQUEST, everything, speaking_to
from tests.fakes.kserve_script import failure, tokens
from tests.fakes.patience import PATIENCE_SECONDS


async def left_behind(folder, *, heeds_stop=True):
    """Let a reader leave after the first token; returns how the request ended."""

    async def scene(request, send):
        await send(tokens(request.id, [9]))
        await asyncio.Event().wait()

    async with speaking_to(folder, scene) as (servicer, backend, target):
        servicer.heeds_stop = heeds_stop
        async with aclosing(backend.generate(target, REQUEST, 60.0)) as chunks:
            assert (await anext(chunks)).token_ids == (9,)
        _, unfinished = await asyncio.wait(set(backend._tasks), timeout=PATIENCE_SECONDS)
        assert not unfinished
        heard = {asyncio.ensure_future(event.wait()) for event in (servicer.stopped, servicer.cancelled)}
        await asyncio.wait(heard, timeout=PATIENCE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
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
    await asyncio.wait_for(servicer.cancelled.wait(), PATIENCE_SECONDS)


async def test_one_stop_reaches_one_request(tmp_path):
    async def scene(request, send):
        await send(tokens(request.id, [9]))
        await stopped.wait()
        await send(tokens(request.id, [10], final=True))

    stopped = asyncio.Event()
    other = replace(REQUEST, request_id="id-2")
    async with (
        speaking_to(tmp_path, scene) as (servicer, backend, target),
        aclosing(backend.generate(target, other, 60.0)) as stays,
    ):
        await anext(stays)
        async with aclosing(backend.generate(target, REQUEST, 60.0)) as leaves:
            await anext(leaves)
        await asyncio.wait_for(servicer.stopped.wait(), PATIENCE_SECONDS)
        stopped.set()
        assert (await anext(stays)).token_ids == (10,)


async def test_more_than_can_be_left_behind_are_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr(triton_stream, "_MAX_ENDING", 0)
    assert (await left_behind(tmp_path)).cancelled.is_set()


async def test_a_server_that_has_answered_ends_the_stream_itself(tmp_path):
    goes_on = asyncio.Event()

    async def scene(request, send):
        await send(tokens(request.id, [9], final=True))
        await goes_on.wait()

    async with speaking_to(tmp_path, scene) as (servicer, backend, target):
        assert len(await everything(backend, target)) == 1
        goes_on.set()
        await asyncio.wait(set(backend._tasks), timeout=PATIENCE_SECONDS)
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
            await asyncio.wait_for(everything(backend, target, 120.0), PATIENCE_SECONDS)
        await asyncio.wait_for(servicer.cancelled.wait(), PATIENCE_SECONDS)


async def test_a_cancelled_reader_stops_the_request_by_message(tmp_path):
    started = asyncio.Event()

    async def scene(request, send):
        started.set()
        await asyncio.Event().wait()

    async with speaking_to(tmp_path, scene) as (servicer, backend, target):
        reading = asyncio.create_task(everything(backend, target))
        await asyncio.wait_for(started.wait(), PATIENCE_SECONDS)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await asyncio.wait_for(servicer.stopped.wait(), PATIENCE_SECONDS)
        assert not servicer.cancelled.is_set()


async def test_a_reader_that_stands_still_holds_the_server_back(tmp_path):
    """Reading ahead of a slow reader is bounded here, and by HTTP/2 behind it."""
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
