"""What a router builds on: adapters, cancellation, stop and order, on the real server and the scripted one."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from tests.fakes.patience import PATIENCE_SECONDS
from tests.fakes.scripted_triton.conversation import Conversation, read_to_the_end
from tests.fakes.scripted_triton.recordings import tokens_of
from tests.fakes.scripted_triton.scenarios import Exchange, adapter, by_id, infer_request, prompt, scalar
from tests.fakes.scripted_triton.script import Script

pytestmark = pytest.mark.xdist_group("real_triton")  # one server for both files

STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
LONG = prompt(1000, end_token=None)


@asynccontextmanager
async def client(triton):
    triton.play(Script(token_delay_seconds=0.002))
    async with Conversation(triton.target) as conversation:
        yield conversation


def error_of(transcript):
    return pb.ModelStreamInferResponse.FromString(transcript.frames[-1]).error_message


def is_miss(transcript, lora_id):
    return error_of(transcript).endswith(
        f"due to the following error: LoRA task {lora_id} not found in cache. Please send LoRA weights with request"
    )


async def test_the_same_prompt_and_adapter_give_the_same_tokens(triton):
    async with client(triton) as conversation:
        base = tokens_of(await conversation.say(Exchange(prompt(8, end_token=None))))
        first = tokens_of(await conversation.say(Exchange(prompt(8, end_token=None) | adapter(301))))
        again = tokens_of(await conversation.say(Exchange(prompt(8, end_token=None) | by_id(301))))
        other = tokens_of(await conversation.say(Exchange(prompt(8, end_token=None) | adapter(302))))
    assert first == again
    assert len({tuple(base), tuple(first), tuple(other)}) == 3


async def test_an_id_keeps_the_weights_it_came_with(triton):
    async with client(triton) as conversation:
        first = tokens_of(await conversation.say(Exchange(prompt(8) | adapter(311))))
        again = tokens_of(await conversation.say(Exchange(prompt(8) | adapter(311, seed=5))))
    assert first == again


async def test_the_least_recently_used_adapter_goes(triton):
    async with client(triton) as conversation:
        for tensors in (adapter(321), adapter(322), by_id(321), adapter(323)):
            assert not error_of(await conversation.say(Exchange(prompt(1) | tensors)))
        assert is_miss(await conversation.say(Exchange(prompt(1) | by_id(322))), 322)
        for lora_id in (321, 323):
            assert not error_of(await conversation.say(Exchange(prompt(1) | by_id(lora_id))))


async def test_stop_ends_the_request_of_the_same_id(triton):
    async with client(triton) as conversation:
        call = await conversation.begin(Exchange(LONG, request_id="stop-me"))
        (answer,) = (await conversation.stop("stop-me")).frames
        assert not pb.ModelStreamInferResponse.FromString(answer).infer_response.outputs
        frames = await read_to_the_end(call)
    final = pb.ModelStreamInferResponse.FromString(frames[-1])
    assert not final.error_message
    assert final.infer_response.parameters["triton_final_response"].bool_param
    assert len(frames) < 900


async def test_stop_ends_an_answer_that_does_not_stream_with_what_there_is_of_it(triton):
    whole = prompt(1000, end_token=None, streaming=False)
    async with client(triton) as conversation:
        asked = asyncio.create_task(conversation.say(Exchange(whole, request_id="stop-whole")))
        while not asked.done():
            await conversation.stop("stop-whole")  # until it has begun, there is nothing to stop
        answer = await asked
    (final,) = [pb.ModelStreamInferResponse.FromString(frame) for frame in answer.frames]
    assert not final.error_message
    assert final.infer_response.parameters["triton_final_response"].bool_param
    assert len(tokens_of(answer)) < 900


async def test_a_cancelled_request_lets_go_of_its_adapter(triton):
    async with client(triton) as conversation:
        for lora_id in (331, 332, 333, 334):  # twice as many as the cache holds
            call = await conversation.begin(Exchange(LONG | adapter(lora_id)))
            call.cancel()
            async with asyncio.timeout(PATIENCE_SECONDS):
                other = Exchange(prompt(1) | adapter(lora_id + 100))
                while error_of(await conversation.say(other)):
                    pass


async def test_requests_of_one_stream_run_side_by_side(triton):
    triton.play(Script(token_delay_seconds=0.002))
    requests = [
        infer_request(Exchange(prompt(60 if number == 0 else 2, end_token=None), request_id=f"{number}"))
        for number in range(3)
    ]
    async with grpc.aio.insecure_channel(triton.target) as channel:
        call = channel.stream_stream(STREAM, pb.ModelInferRequest.SerializeToString, None)
        ended = []
        async for frame in call(iter(requests), timeout=30):
            response = pb.ModelStreamInferResponse.FromString(frame).infer_response
            if response.parameters["triton_final_response"].bool_param:
                ended.append(response.id)
    assert sorted(ended) == ["0", "1", "2"]
    assert ended[-1] == "0"


@pytest.mark.parametrize("new_tokens", [1, 2, 5])
async def test_without_an_end_token_it_runs_to_the_limit(triton, new_tokens):
    async with client(triton) as conversation:
        transcript = await conversation.say(Exchange(prompt(new_tokens, end_token=None)))
    assert len(tokens_of(transcript)) == len(transcript.frames) == new_tokens


async def test_a_limit_of_nothing_is_refused(triton):
    async with client(triton) as conversation:
        transcript = await conversation.say(Exchange(prompt(1) | {"request_output_len": scalar(0, np.int32)}))
    assert "Invalid request_output_len (0)" in error_of(transcript)
