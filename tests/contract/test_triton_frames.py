"""The real server and the scripted one answer every recorded scenario alike."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from tests.fakes.scripted_triton.conversation import Conversation, Transcript
from tests.fakes.scripted_triton.frames import Frames
from tests.fakes.scripted_triton.recordings import (
    DIRECTORY,
    read_description,
    read_recording,
    shape_of,
    tokens_of,
)
from tests.fakes.scripted_triton.scenarios import MODEL_NAME, SCENARIOS
from tests.fakes.scripted_triton.script import Script

pytestmark = pytest.mark.xdist_group("real_triton")  # one server for both files

FRAMES = Frames()
DESCRIPTIONS = {"model_config", "model_metadata"}


def test_every_recording_has_its_scenario():
    names = {path.stem for path in DIRECTORY.glob("*.json")}
    assert names == {scenario.name for scenario in SCENARIOS} | DESCRIPTIONS


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_the_answer_is_the_recorded_one(triton, scenario):
    triton.play(Script(tokens=scenario.answer_tokens, token_delay_seconds=0.001))
    async with Conversation(triton.target) as conversation:
        transcript = await conversation.hold(scenario)
    assert shape_of(transcript) == shape_of(read_recording(scenario.name))


async def test_the_model_describes_itself_as_recorded(triton):
    async with Conversation(triton.target) as conversation:
        metadata = await conversation.stub.ModelMetadata(pb.ModelMetadataRequest(name=MODEL_NAME), timeout=5)
        answer = await conversation.stub.ModelConfig(pb.ModelConfigRequest(name=MODEL_NAME), timeout=5)
        live = await conversation.stub.ServerLive(pb.ServerLiveRequest(), timeout=5)
        ready = await conversation.stub.ServerReady(pb.ServerReadyRequest(), timeout=5)
        model = await conversation.stub.ModelReady(pb.ModelReadyRequest(name=MODEL_NAME), timeout=5)
        other = await conversation.stub.ModelReady(pb.ModelReadyRequest(name="no_such_model"), timeout=5)
    answer.config.parameters.clear()
    assert metadata == pb.ModelMetadataResponse.FromString(read_description("model_metadata"))
    assert answer == pb.ModelConfigResponse.FromString(read_description("model_config"))
    assert (live.live, ready.ready, model.ready, other.ready) == (True, True, True, False)


@given(request_id=st.text(max_size=300), tokens=st.lists(st.integers(0, 2**31 - 1), max_size=5))
def test_frames_for_any_id_and_tokens_are_what_protobuf_writes(request_id, tokens):
    for raw in (FRAMES.end(request_id), FRAMES.whole(request_id, tokens), *token_frames(request_id)):
        message = pb.ModelStreamInferResponse.FromString(raw)
        assert message.SerializeToString(deterministic=True) == raw
        assert message.infer_response.id == request_id
    assert tokens_of(Transcript((FRAMES.whole(request_id, tokens),), "OK", "")) == tokens


def token_frames(request_id):
    for template in (FRAMES.token, FRAMES.last_token):
        head, tail = template.halves(request_id)
        yield head + b"\x01\x02\x03\x04" + tail
