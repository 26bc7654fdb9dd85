"""What `tenantry up` says: steps for programs, a table and hints for people."""

from __future__ import annotations

import json
from contextlib import suppress
from io import StringIO

import pytest
from rich.console import Console

from services.cli.demo.answer import Answer, NoAnswer
from services.cli.demo.narration import Narration
from services.cli.terminal.output import Output, _as_called
from services.common.command_errors import CommandError
from services.common.errors import Reason, UnavailableError

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


def said_to_a_person(say):
    output = Output(json=False)
    output._stderr = Console(
        file=(shown := StringIO()), force_terminal=True, color_system=None, width=110, markup=False
    )
    say(Narration(output, verbose=False))
    return shown.getvalue()


def said_to_a_program(capsys, say):
    say(Narration(Output(json=True), verbose=False))
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_people_get_a_table_of_three_rows_and_what_to_do():
    shown = said_to_a_person(lambda narration: narration.answers(ANSWERS, " --state-dir x"))
    heading, *rows = (
        [cell.strip() for cell in line.strip("│┃ ").replace("┃", "│").split("│")]
        for line in shown.splitlines()
        if "│" in line or "┃" in line
    )
    assert heading == ["tenant", "adapter", "config version", "first token", "tokens/s", "answer"]
    assert rows == [
        ["acme", "(base)", "1", "812 ms", "21.2", "Berlin."],
        ["globex", "pirate", "2", "640 ms", "18.0", "Berlin, matey!"],
        ["initech", "", "", "", "", "none: the tenant is suspended"],
    ]
    assert shown.splitlines()[-1] == (
        f"initech got no answer. Serve it again: {_as_called()} tenant resume initech --state-dir x"
    )


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
