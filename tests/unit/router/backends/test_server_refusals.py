"""What callers are told when a model server refuses: whose fault it is, and whether trying again helps."""

from __future__ import annotations

import logging

import pytest

from services.common.errors import Code, Error, Reason
from services.router.backends import dispatch, trtllm_engine
from services.router.backends.backend import (
    BackendError,
    BackendMismatchError,
    BackendRejectedError,
    DispatchRequest,
    ForeignAnswerError,
    PromptTooLongError,
)
from services.router.stages import Parameters
from tests.fakes.mutants import without
from tests.fakes.router_config import ConfigWorld
from tests.fakes.router_pipeline import PipelineWorld, SimulatedServer

REQUEST = DispatchRequest("id", "m", [1], Parameters(1, 0.0, 1.0, 0, 0, ()), 2, 2, None)
TOO_LONG = "Prompt length (9000) exceeds maximum input length (8192). Set log level to info"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (TOO_LONG, PromptTooLongError),
        ("unexpected inference input 'no_such_input' for model 'tensorrt_llm'", BackendMismatchError),
        (
            "[request id: x] inference input 'seed' data-type is 'INT32', but model expects 'UINT64'",
            BackendMismatchError,
        ),
        ("Request for unknown model: 'no_such_model' is not found", BackendMismatchError),
        (
            "Executor failed process requestId 7 due to the following error: CUDA out of memory",
            BackendRejectedError,
        ),
    ],
)
def test_the_text_says_what_kind_it_is(text, kind):
    assert type(trtllm_engine.failure(text, REQUEST)) is kind


def test_the_servers_text_is_kept_for_the_log_bounded_and_escaped():
    error = trtllm_engine.failure("CUDA\x1b[2J\n" + "x" * 1000, REQUEST)
    assert str(error) == "the server failed at the request"
    assert error.server_text.startswith("CUDA")
    assert "\x1b" not in error.server_text
    assert "\n" not in error.server_text
    assert len(error.server_text) < 400


class Refusing(SimulatedServer):
    """Refuses every request in the same way."""

    def __init__(self, error: BackendError) -> None:
        super().__init__([ord("a")])
        self._error = error

    def _break_if(self, broken: bool) -> None:
        raise self._error


def acme(config: ConfigWorld) -> None:
    config.key(config.tenant("acme", 7), "key-uid-acme")


async def refused(folder, error: BackendError) -> tuple[PipelineWorld, Error]:
    world = PipelineWorld(folder, Refusing(error), configure=acme)
    with pytest.raises(Error) as raised:
        await world.pipeline.run(world.call("uid-acme"), None)
    assert world.leaks() == []
    return world, raised.value


@pytest.mark.parametrize(
    ("text", "code", "retries"),
    [
        (TOO_LONG, Code.INVALID_ARGUMENT, False),
        ("unexpected inference input 'x'", Code.INTERNAL, False),
        ("Executor failed process requestId 7: CUDA out of memory", Code.UNAVAILABLE, True),
    ],
)
async def test_a_caller_is_told_to_try_again_only_where_it_may_help(tmp_path, caplog, text, code, retries):
    caplog.set_level(logging.INFO)
    _, error = await refused(tmp_path, trtllm_engine.failure(text, REQUEST))
    assert error.code is code
    assert (error.retry_after_seconds is not None) == retries
    assert text[:20] not in error.message
    assert text[:20] in caplog.text


async def test_a_prompt_that_is_too_long_for_the_server_names_its_field(tmp_path):
    _, error = await refused(tmp_path, trtllm_engine.failure(TOO_LONG, REQUEST))
    assert error.reason is Reason.INVALID_FIELD
    assert "conversation" in error.message


async def stopped_after_a_foreign_answer(folder) -> bool:
    world, error = await refused(folder, ForeignAnswerError("a response to another request"))
    assert error.reason is Reason.MODEL_SERVER_FAILED
    assert world.registry.get_sample_value("tenantry_foreign_answers_total") == 1
    return not world.pool()._endpoints.any_place


async def test_an_answer_to_another_request_stops_its_server_and_rings(tmp_path, caplog):
    assert await stopped_after_a_foreign_answer(tmp_path)
    assert any(
        record.levelno == logging.ERROR and "another request" in record.message for record in caplog.records
    )


async def test_that_test_notices_a_server_that_stays(tmp_path, monkeypatch):
    careless = without(dispatch, "a-foreign-answer-stops-its-server").Dispatcher
    monkeypatch.setattr(dispatch.Dispatcher, "_failure", careless._failure)
    assert not await stopped_after_a_foreign_answer(tmp_path)
