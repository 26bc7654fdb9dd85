"""Output that may lose its reader: whoever reads a pipe or a terminal can go, what is written goes on."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO, cast


class LastingStream:
    """A text stream whose writes never fail: without a reader they go nowhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        """Everything else is the stream's own."""
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, or drop."""
        try:
            return self._stream.write(text)
        except OSError:
            self._let_go()
            return len(text)

    def flush(self) -> None:
        """Flush, or drop."""
        try:
            self._stream.flush()
        except OSError:
            self._let_go()

    def _let_go(self) -> None:
        # Python's own flush at the end would fail as well.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, self._stream.fileno())
        finally:
            os.close(nowhere)


@contextmanager
def lasting_streams() -> Iterator[None]:
    """Make this process's stdout and stderr lasting ones."""
    with (
        redirect_stdout(cast("TextIO", LastingStream(sys.stdout))),
        redirect_stderr(cast("TextIO", LastingStream(sys.stderr))),
    ):
        yield
