"""The scripted server's own part: what a real one cannot be made to do on demand, and its two forms of life."""

from __future__ import annotations

import asyncio
import json
import sys

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb

from tests.fakes.patience import PATIENCE_SECONDS
from tests.fakes.scripted_triton.conversation import Conversation
from tests.fakes.scripted_triton.frames import TokenFrame
from tests.fakes.scripted_triton.recordings import read_recording, tokens_of
from tests.fakes.scripted_triton.scenarios import Exchange, adapter, by_id, infer_request, prompt
from tests.fakes.scripted_triton.script import Fault, Script
from tests.fakes.scripted_triton.server import ScriptedTriton

WITH_ADAPTER = Exchange(prompt(5) | adapter(401))
BY_ID = Exchange(prompt(5) | by_id(401))


async def say(triton, exchange):
    async with Conversation(triton.target) as conversation:
        return await conversation.say(exchange)


def last(transcript):
    return pb.ModelStreamInferResponse.FromString(transcript.frames[-1])


@pytest.mark.parametrize(
    ("fault", "code"), [(Fault.DROP, "UNAVAILABLE"), (Fault.NEVER_FINAL, "OK"), (Fault.ERROR, "OK")]
)
async def test_a_fault_comes_after_as_many_tokens_as_the_script_says(fault, code):
    after = 4 if fault is Fault.NEVER_FINAL else 3
    async with ScriptedTriton(Script(fault=fault, fault_after_tokens=3)) as triton:
        transcript = await say(triton, Exchange(prompt(5)))
    assert transcript.code == code
    assert len(tokens_of(transcript)) == after
    if fault is Fault.ERROR:
        assert last(transcript).error_message.endswith("the scripted engine fails")
    else:
        assert not last(transcript).infer_response.parameters["triton_final_response"].bool_param


async def test_a_fault_happens_to_as_many_requests_as_the_script_says():
    async with ScriptedTriton(Script(fault=Fault.DROP, fault_requests=2)) as triton:
        codes = [(await say(triton, Exchange(prompt(5)))).code for _ in range(4)]
    assert codes == ["UNAVAILABLE", "UNAVAILABLE", "OK", "OK"]


async def test_a_hanging_request_is_counted_out_when_it_is_cancelled():
    async with ScriptedTriton(Script(fault=Fault.HANG, fault_after_tokens=1), adapter_slots=1) as triton:
        async with grpc.aio.insecure_channel(triton.target) as channel:
            stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
            call = stream(iter([infer_request(WITH_ADAPTER).SerializeToString()]), timeout=5)
            await call.read()
            call.cancel()
        await asyncio.wait_for(triton.idle.wait(), PATIENCE_SECONDS)
        assert triton.counts.cancelled == 1
        triton.script = Script()
        assert not last(await say(triton, Exchange(prompt(5) | adapter(402)))).error_message


async def test_a_forced_miss_asks_for_the_weights_again():
    async with ScriptedTriton() as triton:
        await say(triton, WITH_ADAPTER)
        triton.script = Script(fault=Fault.MISS, fault_requests=1)
        assert "LoRA task 401 not found in cache" in last(await say(triton, BY_ID)).error_message
        assert not last(await say(triton, WITH_ADAPTER)).error_message
        assert not last(await say(triton, BY_ID)).error_message
        assert triton.counts.adapter_loads == 1


async def test_a_forced_full_cache():
    async with ScriptedTriton(Script(fault=Fault.FULL)) as triton:
        assert "PEFT Cache is full" in last(await say(triton, WITH_ADAPTER)).error_message
        assert not last(await say(triton, Exchange(prompt(5)))).error_message


async def test_the_other_form_of_the_final_response():
    async with ScriptedTriton(Script(empty_final=True)) as triton:
        transcript = await say(triton, Exchange(prompt(5)))
    assert len(tokens_of(transcript)) == 5
    final = last(transcript).infer_response
    assert final.parameters["triton_final_response"].bool_param
    assert not final.outputs


def test_a_recording_with_its_fields_in_another_order_is_noticed():
    recorded = pb.ModelStreamInferResponse.FromString(read_recording("length").frames[0])
    outer = recorded.infer_response.SerializeToString()
    name_last = outer[14:] + outer[:14]
    assert pb.ModelInferResponse.FromString(name_last) == recorded.infer_response
    with pytest.raises(ValueError, match="another order"):
        TokenFrame.cut(b"\x12" + bytes([len(name_last)]) + name_last)


async def test_it_runs_as_a_process(tmp_path):
    target = f"unix:{tmp_path}/triton.sock"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.fakes.scripted_triton",
        "--listen", target, "--script", json.dumps({"tokens": 2}),
    )  # fmt: skip
    try:
        async with grpc.aio.insecure_channel(target) as channel:
            ready = channel.unary_unary("/inference.GRPCInferenceService/ServerReady")
            raw = await ready(b"", timeout=20, wait_for_ready=True)
        assert pb.ServerReadyResponse.FromString(raw).ready
        async with Conversation(target) as conversation:
            assert len(tokens_of(await conversation.say(Exchange(prompt(5))))) == 2
    finally:
        process.terminate()
        assert await asyncio.wait_for(process.wait(), PATIENCE_SECONDS) == 0
