"""Prepares stdin, stdout and stderr, which a caller may have closed, filled or given another encoding."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import NoReturn, TextIO, cast

from services.common.command_errors import UsageError

_STDIN, _STDOUT, _STDERR = range(3)


def prepare_streams() -> None:
    """Let every text be read and written, and fill the places of closed streams.

    A place left empty would be taken by the next file or socket, and results would be written into it.

    Raises:
        UsageError: stdout is closed, so results would be lost.
    """
    if sys.stdin is None:
        sys.stdin = _nowhere(_STDIN, "r")
    if sys.stderr is None:
        sys.stderr = _nowhere(_STDERR, "w")
    closed = sys.stdout is None
    if closed:
        sys.stdout = _nowhere(_STDOUT, "w")
    _set_errors(sys.stdin, "surrogateescape")
    for stream in (sys.stdout, sys.stderr):
        _set_errors(stream, "backslashreplace")
    if closed:
        raise UsageError("stdout is closed.", "Redirect it to /dev/null if the results are not wanted.")


def flush_streams() -> None:
    """Write what is still buffered.

    Raises:
        OSError: stdout takes no more, for example because the disk is full. What is left is dropped, so that Python
            does not try again when it ends.
    """
    failure: OSError | None = None
    for stream in (sys.stderr, sys.stdout):
        try:
            stream.flush()
        except OSError as error:
            drop_output(stream)
            failure = error if stream is sys.stdout else failure
    if failure:
        raise failure


def drop_output(stream: TextIO) -> None:
    """Send what is buffered in a stream, and all that follows, nowhere."""
    # In tests a stream may have no file.
    with suppress(io.UnsupportedOperation):
        place = stream.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, place)
        finally:
            os.close(nowhere)


def _nowhere(place: int, mode: str) -> TextIO:
    nowhere = os.open(os.devnull, os.O_RDONLY if mode == "r" else os.O_WRONLY)
    if nowhere != place:
        os.dup2(nowhere, place)
        os.close(nowhere)
    return cast("TextIO", open(place, mode, encoding="utf-8", closefd=False))


def _set_errors(stream: TextIO, errors: str) -> None:
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors=errors)


def end_process(status: int) -> NoReturn:
    """End the process with a status, after what is still buffered.

    gRPC's threads may still run. Python would take its interpreter down under them, which crashed once in some hundred
    runs; the system ends all threads at once.
    """
    with suppress(OSError):
        flush_streams()
    os._exit(status)
