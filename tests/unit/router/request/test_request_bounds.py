"""The work that one request causes on the event loop is bounded, for any content."""

from __future__ import annotations

import pytest
from tenantry.inference.v1 import inference_service_pb2 as pb

from services.common.errors import InvalidArgumentError
from services.common.rpc.status import to_status, trailing_details
from services.common.text.templates import ChatTemplate, Turn
from services.router.request.request_fields import check_fields
from services.router.text import prompt_encoding
from services.router.text.prompt import Prompt
from services.router.text.prompt_encoding import PromptEncoder
from services.router.text.text_model import TextModel
from tests.fakes.tiny_text import CHAT_TEMPLATE

TURN = pb.Message(role=pb.ROLE_USER, content=[pb.ContentPart(text="")])


def violations(request: pb.GenerateRequest) -> list[str]:
    with pytest.raises(InvalidArgumentError) as error:
        check_fields(request)
    # The status is metadata, of which gRPC's libraries take 8 KiB; in base64, beside the message.
    status = to_status(error.value)
    assert len(trailing_details(status)) * 4 / 3 + len(status.message) < 8 << 10
    return [violation.field for violation in error.value.violations]


def conversation(*messages: pb.Message) -> pb.GenerateRequest:
    return pb.GenerateRequest(conversation=pb.Conversation(messages=messages))


@pytest.mark.parametrize("turn", [TURN, pb.Message()], ids=["empty turns", "no turns at all"])
def test_turns_are_counted_before_they_are_looked_at(turn):
    check_fields(conversation(*[TURN] * 4096))
    assert violations(conversation(*[turn] * 4097)) == ["conversation.messages"]


def test_pieces_of_content_are_counted_over_all_messages():
    many = pb.Message(role=pb.ROLE_USER, content=[pb.ContentPart(text="x")] * 4096)
    check_fields(conversation(many, many))
    assert violations(conversation(many, many, TURN)) == ["conversation.messages"]


def test_no_more_wrong_fields_are_named_than_a_status_can_carry():
    assert len(violations(conversation(*[pb.Message()] * 4096))) == 20
    worst = pb.Message(role=pb.ROLE_USER, content=[pb.ContentPart()] * 8191)
    assert len(violations(conversation(TURN, worst))) == 20


def test_many_stop_sequences_are_one_wrong_field():
    parameters = pb.SamplingParameters(stop_sequences=[""] * 100_000)
    request = conversation(TURN)
    request.parameters.CopyFrom(parameters)
    assert violations(request) == ["parameters.stop_sequences"]


async def test_many_turns_are_rendered_off_the_loop_however_short(tiny_tokeniser, monkeypatch):
    model = TextModel(tiny_tokeniser, ChatTemplate(CHAT_TEMPLATE, list(tiny_tokeniser.control_token_ids)))
    in_threads = []
    with PromptEncoder(1) as encoder:
        threads = encoder._threads._threads
        submit = threads.submit
        monkeypatch.setattr(
            threads, "submit", lambda work, *given: in_threads.append(work) or submit(work, *given)
        )
        for turns, expected in ((1, 0), (prompt_encoding._IN_PLACE_BYTES // 48 + 1, 1)):
            prompt = Prompt((Turn("user", ""),) * turns, None, "conversation", 0)
            assert len(await encoder.encode("t", model, prompt)) > turns
            assert len(in_threads) == expected
