"""Asks before an action that cannot be undone; a program, which cannot be asked, gives --yes."""

from __future__ import annotations

from services.cli.terminal.output import Output
from services.common.command_errors import CommandError, InterruptionError, UsageError


def require_yes(output: Output, question: str, *, yes: bool, word: str = "yes") -> None:
    """Go on only after a person's consent, or with `--yes`.

    Args:
        output: where to ask.
        question: says what would happen.
        yes: whether `--yes` was given.
        word: the answer that means consent; any other one means no.

    Raises:
        UsageError: there is no terminal to ask on, and `--yes` was not given.
        CommandError: the answer was no.
        InterruptionError: the answer was Ctrl-C.
    """
    if yes:
        return
    if not output.can_ask:
        raise UsageError("nothing was changed: there is no terminal to ask on.", "Repeat with --yes.")
    try:
        answer = output.ask(f"{question} Type {word} to go on:")
    except KeyboardInterrupt:
        output.note("")
        raise InterruptionError("nothing was changed.") from None
    if answer != word:
        raise CommandError("nothing was changed.")
