"""One process's log on disk. A full disk loses lines, never the process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self


class LogFile:
    """Appends lines as long as the disk takes them; use as a context manager.

    Args:
        path: made if it is not there.
        complain: told once when lines begin to be lost, and again after some were kept in between.
    """

    def __init__(self, path: Path, complain: Callable[[str], None]) -> None:
        self._path = path
        self._complain = complain
        self._file: BinaryIO | None = None
        self._losing = False

    def __enter__(self) -> Self:
        """Nothing yet: the first line opens the file."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        if self._file is not None:
            self._file.close()

    def write(self, line: bytes) -> None:
        """Keep a line if that is possible."""
        try:
            if self._file is None:
                self._file = self._path.open("ab", buffering=0)
            self._file.write(line)
        except OSError as error:
            if not self._losing:
                self._complain(f"{self._path} takes no lines: {error.strerror}")
            self._losing = True
        else:
            self._losing = False
