"""One process's log on disk, of bounded size. A full disk loses lines, never the process."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

MAX_BYTES = 16 << 20


def older(path: Path) -> Path:
    """The file with the older lines of a log: `<name>.1`."""
    return path.with_name(f"{path.name}.1")


def _for_the_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


class LogFile:
    """Appends lines as long as the disk takes them; use as a context manager.

    A full file replaces the older one, and a new file begins.

    Args:
        path: made if it is not there.
        complain: called when lines begin to be lost, and again after some were kept in between.
        max_bytes: of each of the two files, give or take a line.
    """

    def __init__(self, path: Path, complain: Callable[[str], None], max_bytes: int = MAX_BYTES) -> None:
        self._path = path
        self._complain = complain
        self._max_bytes = max_bytes
        self._file: BinaryIO | None = None
        self._losing = False
        self._stuck = False

    def __enter__(self) -> Self:
        """Nothing yet: the first line opens the file."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self._close()

    def write(self, line: bytes) -> None:
        """Keep a line if that is possible."""
        try:
            if self._file is None:
                self._file = open(self._path, "ab", buffering=0, opener=_for_the_owner)  # noqa: SIM115
            self._file.write(line)
            full = self._file.tell() >= self._max_bytes  # proven: log-has-an-end
        except OSError as error:
            if not self._losing:
                self._complain(f"{self._path} takes no lines: {error.strerror}")
            self._losing = True
        else:
            self._losing = False
            if full and not self._stuck:
                self._begin_anew()

    def _begin_anew(self) -> None:
        try:
            self._path.replace(older(self._path))
        except OSError as error:
            # Once: every line would try again.
            self._stuck = True
            self._complain(f"{self._path} is full and goes on growing: {error.strerror}")
        else:
            self._close()

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()
