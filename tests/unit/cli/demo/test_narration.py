"""What `tenantry up` says: steps for programs, a table and hints for people."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from io import StringIO

import pytest
from rich.console import Console

from services.cli.demo.answer import Answer, NoAnswer
from services.cli.demo.narration import Narration
from services.cli.terminal.output import Output, _as_called
from services.common.command_errors import CommandError
from services.common.errors import Reason, UnavailableError
from services.local.mesh_ports import MovedPort

ANSWERS = [
    Answer("acme", "", 1, 812.4, 21.25, "Berlin."),
    Answer("globex", "pirate", 2, 640.0, 18.0, "Berlin, matey!"),
    NoAnswer(
        "initech",
        "TENANT_SUSPENDED",
        "the tenant is suspended",
        "Serve it again",
        "tenantry tenant resume initech",
    ),
]


def said_to_a_person(say, width=110):
    output = Output(json=False)
    output._stderr = Console(
        file=(shown := StringIO()), force_terminal=True, color_system=None, width=width, markup=False
    )
    say(Narration(output, verbose=False))
    return shown.getvalue()


def said_to_a_program(capsys, say):
    say(Narration(Output(json=True), verbose=False))
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_people_get_a_table_of_three_rows_and_what_to_do():
    shown = said_to_a_person(lambda narration: narration.answers(ANSWERS, " --state-dir x"))
    heading, *rows = (re.split(r"  +", line.strip()) for line in shown.splitlines()[:-1] if line.strip())
    assert heading == ["TENANT", "ADAPTER", "CONFIG", "FIRST TOKEN", "TOKENS/S", "ANSWER"]
    assert rows == [
        ["acme", "(base)", "v1", "812 ms", "21.2", "Berlin."],
        ["globex", "pirate", "v2", "640 ms", "18.0", "Berlin, matey!"],
        ["initech", "none: the tenant is suspended"],
    ]
    assert shown.splitlines()[-1] == (
        f"initech got no answer. Serve it again: {_as_called()} tenant resume initech --state-dir x"
    )


LINE = (
    "2026-12-01T03:32:14.436+00:00 INFO services.router.snapshot config revision 2 is in force at this router"
)


def test_a_log_line_is_shortened_and_wrapped_between_words_beside_its_name():
    shown = said_to_a_person(lambda narration: narration.log("router", LINE), width=50)
    assert [line.rstrip() for line in shown.splitlines()] == [
        "03:32:14 router   config revision 2 is in force at",
        "                  this router",
    ]


def test_the_refusals_before_the_first_answer_are_not_shown():
    refusal = LINE.replace("config revision 2 is in force", "request 7f failed: NO_READY_ENDPOINT")

    def say(narration):
        with narration.asking("Why?"):
            narration.log("router", refusal)
            narration.log("router", LINE)
        narration.log("router", refusal)

    shown = said_to_a_person(say)
    assert shown.startswith("Asking each tenant: Why?")
    assert shown.count("NO_READY_ENDPOINT") == 1
    assert shown.count("in force") == 1


def test_ports_that_others_have_are_named_once_and_those_of_listeners_first(capsys):
    moved = [
        MovedPort("tenant", 8443, 8449, "envoy (pid 7)"),
        MovedPort("config metrics", 8446, 8452, ""),
        MovedPort("audit metrics", 8447, 8453, ""),
    ]
    assert said_to_a_person(lambda narration: narration.moved_ports(moved)).splitlines() == [
        "Port 8443 is taken by envoy (pid 7): the tenant port is 8449.",
        "Ports of less use were taken, too. In their place: config metrics 8452, audit metrics 8453.",
        "The mesh keeps these ports at its next start. `tenantry up --port N` chooses others.",
    ]
    assert said_to_a_person(lambda narration: narration.moved_ports([])) == ""
    steps = said_to_a_program(capsys, lambda narration: narration.moved_ports(moved))
    assert [step["taken"] for step in steps] == [8449, 8452, 8453]


def test_a_step_is_named_when_it_begins():
    def say(narration):
        with narration.doing("triton"):
            narration.log("config", LINE)

    assert said_to_a_person(say).startswith("Waiting for the model")


def test_programs_get_one_step_an_answer(capsys):
    steps = said_to_a_program(capsys, lambda narration: narration.answers(ANSWERS))
    assert [(step["step"], step["ok"], step["tenant"]) for step in steps] == [
        ("answer", True, "acme"),
        ("answer", True, "globex"),
        ("answer", False, "initech"),
    ]
    assert steps[2]["reason"] == "TENANT_SUSPENDED"
    assert "resume" in steps[2]["command"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UnavailableError("etcd is away", reason=Reason.STORE_UNAVAILABLE), "STORE_UNAVAILABLE"),
        (CommandError("it does not verify."), "COMMAND_FAILED"),
    ],
)
def test_a_step_that_fails_says_so_and_why(capsys, error, reason):
    def fail(narration):
        with suppress(type(error)), narration.doing("export") as details:
            details["tenant_uid"] = "u"
            raise error

    [step] = said_to_a_program(capsys, fail)
    assert step == {
        "step": "export",
        "ok": False,
        "reason": reason,
        "message": error.message,
        "tenant_uid": "u",
    }
