"""Asking before what cannot be taken back; whoever cannot be asked says --yes beforehand."""

from __future__ import annotations

from services.cli.terminal.output import Output
from services.common.command_errors import CommandError, UsageError


def require_yes(output: Output, question: str, *, yes: bool, word: str = "yes") -> None:
    """Go on only if a person says so, or `--yes` did.

    Args:
        output: where to ask.
        question: what would happen.
        yes: whether `--yes` was given.
        word: what the person has to type; any other answer is a no.

    Raises:
        UsageError: nobody can be asked, and `--yes` was not given.
        CommandError: the answer was no.
    """
    if yes:
        return
    if not output.can_ask:
        raise UsageError("nothing was changed: nobody is there to be asked.", "Repeat with --yes.")
    if output.ask(f"{question} Type {word} to go on:") != word:
        raise CommandError("nothing was changed.")
