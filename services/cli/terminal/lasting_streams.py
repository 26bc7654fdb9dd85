"""Output that outlives its reader: after the reader of a pipe or a terminal is gone, the program goes on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO, cast

from services.cli.terminal.standard_streams import drop_output


class LastingStream:
    """A text stream whose writes never fail: without a reader the text is dropped."""

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
            drop_output(self._stream)
            return len(text)

    def flush(self) -> None:
        """Flush, or drop."""
        try:
            self._stream.flush()
        except OSError:
            drop_output(self._stream)


@contextmanager
def lasting_streams() -> Iterator[None]:
    """Make this process's stdout and stderr lasting ones."""
    with (
        redirect_stdout(cast("TextIO", LastingStream(sys.stdout))),
        redirect_stderr(cast("TextIO", LastingStream(sys.stderr))),
    ):
        yield
