"""`--help` of every command, as a terminal of 80 columns shows it."""

from __future__ import annotations

import importlib
import re
from typing import Any

import pytest
import typer
from rich.cells import cell_len

from services.cli.main import SUBCOMMANDS


def every_command() -> list[str]:
    found = []
    for name, (where, _) in SUBCOMMANDS.items():
        module, _, attribute = where.partition(":")
        part = getattr(importlib.import_module(module), attribute)
        found.append(name)
        if isinstance(part, typer.Typer):
            group: Any = typer.main.get_command(part)
            found += [f"{name} {inner}" for inner in group.commands]
    return found


@pytest.fixture
def helped(shell):
    def run(command):
        shell.environment["COLUMNS"] = "80"
        result = shell(*command.split(), "--help")
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


@pytest.mark.parametrize("command", ["", *every_command()])
def test_help_fits_and_is_whole(helped, command):
    text = helped(command)
    assert max(map(cell_len, text.splitlines())) <= 80
    # A type beside an option without a value, a metavar in two pairs of brackets, a text that markup has eaten.
    for wrong in ("<bool>", "[[", r"\[", " . "):
        assert wrong not in text


def test_square_brackets_and_paragraphs_are_shown_as_they_are_meant(helped):
    assert "[what `export` pinned]" in re.sub(r"[\s│]+", " ", helped("audit verify"))
    assert "All tenants are checked before any is changed." in helped("tenant apply")
