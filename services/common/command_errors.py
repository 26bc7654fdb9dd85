"""What goes wrong before or beside a call: said once, with what to do next."""

from __future__ import annotations

from collections.abc import Sequence

FAILURE_STATUS = 1
USAGE_STATUS = 2
INTERRUPTED_STATUS = 130


class CommandError(Exception):
    """Ends a command. None of its parts holds a secret.

    `message` says what is wrong, `hint` what to do next, `details` where exactly: pairs of a place (a field, a
    file, a router; may be empty) and what is the matter there.
    """

    exit_status = FAILURE_STATUS

    def __init__(self, message: str, hint: str = "", details: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = tuple(details)


class UsageError(CommandError):
    """The command was asked wrongly: options that contradict each other, a malformed file."""

    exit_status = USAGE_STATUS


class InterruptionError(CommandError):
    """A person pressed Ctrl-C at a question."""

    exit_status = INTERRUPTED_STATUS
