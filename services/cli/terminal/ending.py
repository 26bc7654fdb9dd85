"""How a command that failed ends: with a message for any exception, and with an exit status."""

from __future__ import annotations

import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer

from services.cli.terminal.failure import exit_status, report
from services.cli.terminal.output import Output
from services.cli.terminal.standard_streams import flush_streams
from services.common.command_errors import INTERRUPTED_STATUS, USAGE_STATUS, CommandError, UsageError
from services.common.errors import Error

# Typer's own exception, which it does not export: the help has been printed in place of a command.
_HELP_SHOWN = "NoArgsIsHelpError"


def report_ending(error: BaseException, *, json: bool) -> int:
    """Report an exception on stderr, as one line of JSON for programs; returns the exit status.

    Without any place to report to, the status alone is left.
    """
    if isinstance(error, typer.Abort):
        return INTERRUPTED_STATUS
    if type(error).__name__ == _HELP_SHOWN:
        return USAGE_STATUS
    failure = _as_failure(error)
    with suppress(OSError):
        report(failure, Output(json=json))
    with suppress(OSError):
        flush_streams()
    return exit_status(failure)


def _as_failure(error: BaseException) -> Error | CommandError:
    """Translate an exception into an error that a person can read."""
    if isinstance(error, (Error, CommandError)):
        return error
    if isinstance(error, typer.TyperException):
        return _wrong_command_line(error)
    if isinstance(error, OSError):
        return _refused_by_the_system(error)
    if isinstance(error, UnicodeError):
        return UsageError(
            "a text cannot be written in the encoding of this locale.", "Set LC_ALL=C.UTF-8, then repeat."
        )
    if isinstance(error, MemoryError):
        return CommandError("there is not enough memory.", "Free some, or do less at once.")
    return _defect(error)


def _wrong_command_line(error: Any) -> UsageError:
    """A command line that does not parse, in the command's own form."""
    message = str(error.format_message()).strip()
    message = message[:1].lower() + message[1:]
    context = error.ctx
    hint = f"See `{context.command_path} --help`." if context is not None else ""
    return UsageError(message if message.endswith((".", "?", "!")) else f"{message}.", hint)


def _refused_by_the_system(error: OSError) -> CommandError:
    """Full disks, missing rights and the like, wherever they were met."""
    where = f"{error.filename}: " if error.filename else ""
    what = error.strerror or str(error) or "it took too long"
    return CommandError(
        f"the system did not do what it was asked: {where}{what}.", "Put that right, then repeat."
    )


def _defect(error: BaseException) -> CommandError:
    """An unexpected exception: names the place, so that it can be reported."""
    [*_, last] = traceback.extract_tb(error.__traceback__) or [None]
    where = f" in {Path(last.filename).name}, line {last.lineno}" if last else ""
    return CommandError(
        f"the command has a defect: {type(error).__name__}{where}.",
        "Please report this line, with the command line that led to it.",
    )
