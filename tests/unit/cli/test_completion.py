"""Completion in a shell: of commands, of the commands of a group, of options. The real command answers."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def completions(line: str) -> list[str]:
    """What bash offers at the end of a line."""
    words = line.split(" ")
    environment = {
        **os.environ,
        "_TENANTRY_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    finished = subprocess.run(
        [sys.executable, "-c", "from services.cli.main import main; main()"],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    )
    assert finished.stderr == ""
    return finished.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("tenantry te", ["tenant"]),
        ("tenantry key ", ["create", "list", "revoke"]),
        ("tenantry tenant suspend acme --re", ["--reason"]),
        ("tenantry chat --model", ["--model", "--models"]),
    ],
)
def test_a_shell_completes_what_was_begun(line, offered):
    assert completions(line) == offered


def test_the_script_for_a_shell_calls_the_command():
    program = (
        "import sys; sys.argv = ['tenantry', '--show-completion']; from services.cli.main import main; main()"
    )
    # The command looks among the processes above it for the shell it is started from.
    finished = subprocess.run(
        ["bash", "-c", '"$0" -c "$1"; exit $?', sys.executable, program],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "_TENANTRY_COMPLETE=complete_bash" in finished.stdout
