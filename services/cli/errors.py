"""What goes wrong before or beside a call: said once, with what to do next."""

from __future__ import annotations

FAILURE_STATUS = 1
USAGE_STATUS = 2


class CommandError(Exception):
    """Ends a command. `message` says what is wrong, `hint` what to do next; neither holds a secret."""

    exit_status = FAILURE_STATUS

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(CommandError):
    """The command was asked wrongly: options that contradict each other, a malformed file."""

    exit_status = USAGE_STATUS
