"""Errors that end a command before or beside a call, each with a hint at what to do next."""

from __future__ import annotations

from collections.abc import Sequence

FAILURE_STATUS = 1
USAGE_STATUS = 2
INTERRUPTED_STATUS = 130


class CommandError(Exception):
    """Ends a command. No part of it holds a secret.

    `message` says what is wrong, `hint` what to do next. `details` are pairs of a place (a field, a file, a router; it
    may be empty) and the problem there.
    """

    exit_status = FAILURE_STATUS

    def __init__(self, message: str, hint: str = "", details: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = tuple(details)


class UsageError(CommandError):
    """The command was called wrongly: with options that contradict each other, or a malformed file."""

    exit_status = USAGE_STATUS


class InterruptionError(CommandError):
    """A person pressed Ctrl-C at a question."""

    exit_status = INTERRUPTED_STATUS
