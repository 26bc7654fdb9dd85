"""`tenantry chat`: streaming, conversations, cancelling, what machines read."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading

import pytest
from tenantry.inference.v1.inference_service_pb2 import Final, FinishReason

from services.cli.clients.inference import InferenceClient
from services.cli.clients.listener import Listener
from services.cli.commands.chat import Session
from services.cli.terminal.conversation import AskingOptions, Conversation
from services.cli.terminal.output import Output
from services.cli.terminal.provenance import summary
from services.common.errors import QuotaViolation, ResourceExhaustedError, UnavailableError
from tests.fakes.cli_calls import TENANT_KEY


def test_one_question_is_answered_on_stdout_and_explained_on_stderr(shell, inference):
    result = shell("chat", "--tenant", "acme", "Who", "are you?")
    assert result.exit_code == 0, result.output
    assert result.stdout == "Ahoy, matey\n"
    assert result.stderr == (
        "model pirate · adapter pirate v2 · config v3 · 12 tokens in, 3 out · first token 120 ms · "
        "20.0 tokens/s · audit #7\n"
    )
    assert inference.requests[0].conversation.messages[0].content[0].text == "Who are you?"


def test_options_reach_the_request_and_what_is_not_given_stays_unset(shell, inference):
    shell("chat", "--model", "m", "--adapter", "a", "--system", "S", "--temperature", "0", "--seed", "0", "Q")
    request = inference.requests[0]
    assert (request.model, request.adapter) == ("m", "a")
    assert [message.content[0].text for message in request.conversation.messages] == ["S", "Q"]
    assert request.parameters.HasField("temperature")
    assert request.parameters.HasField("seed")
    assert not request.parameters.HasField("max_output_tokens")


def test_a_question_can_be_piped_in(shell, inference):
    assert shell("chat", stdin="from a pipe\n").stdout == "Ahoy, matey\n"
    assert inference.requests[0].conversation.messages[0].content[0].text == "from a pipe"
    assert shell("chat", stdin="\n").exit_code == 2


def test_json_is_one_event_a_line(shell, inference):
    lines = [json.loads(line) for line in shell("chat", "--json", "Q").stdout.splitlines()]
    assert [line["event"] for line in lines] == ["delta", "delta", "delta", "final"]
    assert "".join(line["text"] for line in lines[:-1]) == "Ahoy, matey"
    assert lines[-1]["provenance"]["config_version"] == 3


def test_models_are_listed(shell, inference):
    assert shell("chat", "--models").stdout.splitlines()[1].split() == [
        "pirate", "smollm2", "pirate", "2048", "yes",
    ]  # fmt: skip


def test_a_failure_in_the_middle_leaves_what_was_said_and_exits_1(shell, inference):
    inference.error, inference.error_after_pieces = UnavailableError("the model server failed"), 2
    result = shell("chat", "Q")
    assert result.exit_code == 1
    assert result.stdout.startswith("Ahoy, ")
    assert "Error: the model server failed." in result.stderr
    assert "Try again in 1.0 s." in result.stderr


def test_a_limit_is_named_for_people_and_for_machines(shell, inference):
    inference.error = ResourceExhaustedError(
        "too many requests",
        violations=[QuotaViolation("tenants/acme", "2 requests a second")],
        retry_after_seconds=0.4,
    )
    assert "tenants/acme: 2 requests a second\nTry again in 0.4 s." in shell("chat", "Q").stderr
    failure = json.loads(shell("chat", "--json", "Q").stderr)["error"]
    assert (failure["code"], failure["reason"]) == ("RESOURCE_EXHAUSTED", "RATE_LIMITED")
    assert failure["retry_after_seconds"] == pytest.approx(0.4)


def converse(mesh, lines, capsys) -> tuple[str, str]:
    """Hold a conversation over typed lines; a callable line is run in place of typing."""
    typed = iter(lines)

    def read_line(_prompt: str) -> str:
        try:
            line = next(typed)
        except StopIteration:
            raise EOFError from None
        return str(line()) if callable(line) else line

    client = InferenceClient.connect(Listener(mesh.endpoints.tenant_address), TENANT_KEY)
    with asyncio.Runner() as runner:
        session = Session(runner, client, Conversation(AskingOptions()), Output(json=False), 10.0)
        session.converse("> ", read_line)
    captured = capsys.readouterr()
    return captured.out, captured.err


def test_a_conversation_remembers_until_told_otherwise(mesh, capsys):
    converse(mesh, ["one", "", "two", "/new", "three", "/help", "/quit", "never asked"], capsys)
    texts = [
        [message.content[0].text for message in request.conversation.messages]
        for request in mesh.inference.requests
    ]
    assert texts == [["one"], ["one", "Ahoy, matey", "two"], ["three"]]


def test_a_failed_question_leaves_no_trace_and_the_conversation_goes_on(mesh, capsys):
    mesh.inference.error = UnavailableError("the model server failed")

    def recover() -> str:
        mesh.inference.error = None
        return "two"

    out, err = converse(mesh, ["one", recover], capsys)
    assert out.strip() == "Ahoy, matey"
    assert "the model server failed" in err
    assert len(mesh.inference.requests[1].conversation.messages) == 1


def test_interrupting_cancels_the_answer_upstream_and_not_the_program(mesh, capsys):
    fake = mesh.inference
    fake.hold_after_pieces = 1

    def interrupt() -> None:
        assert fake.holding.wait(10)
        os.kill(os.getpid(), signal.SIGINT)

    def next_question() -> str:
        assert fake.cancelled.wait(10)
        fake.hold_after_pieces = None
        return "two"

    thread = threading.Thread(target=interrupt)
    thread.start()
    out, err = converse(mesh, ["one", next_question], capsys)
    thread.join(10)
    assert "Cancelled." in err
    assert out.strip().endswith("Ahoy, matey")
    assert len(fake.requests[1].conversation.messages) == 1


def test_interrupting_the_prompt_asks_again(mesh, capsys):
    def interrupted() -> str:
        raise KeyboardInterrupt

    out, err = converse(mesh, [interrupted, "one"], capsys)
    assert err.count("/quit or Ctrl-D leaves") == 2
    assert "Ahoy, matey" in out


@pytest.mark.parametrize("code", [0xD800, 0xDCE9])
def test_a_lone_surrogate_typed_at_the_prompt_is_asked_for_again(mesh, capsys, code):
    out, err = converse(mesh, [f"caf{chr(code)}", "one"], capsys)
    assert "Error: what was typed is not " in err
    assert out.strip() == "Ahoy, matey"


def test_the_summary_leaves_out_what_does_not_apply():
    final = Final(finish_reason=FinishReason.FINISH_REASON_LENGTH)
    final.provenance.model, final.provenance.config_version, final.provenance.stale = "base", 1, True
    final.usage.output_tokens = 1
    assert summary(final) == (
        "model base · config v1 (stale) · 0 tokens in, 1 out (cut at the limit) · first token 0 ms"
    )
