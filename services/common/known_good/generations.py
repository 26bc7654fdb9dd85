"""The files of a last known good config: two generations, of which one is whole at any moment power may fail.

Blocking: call it from a thread.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from services.common.durable_files import read_or_create, replace_file, sync_directory, write_scratch
from services.common.known_good.sealed_file import (
    KEY_BYTES,
    MAX_FILE_BYTES,
    DamagedError,
    Expected,
    Header,
    KnownGood,
    KnownGoodError,
    require,
    seal,
    unseal,
)

_log = logging.getLogger(__name__)


class Generations:
    """The two files of one process: `<name>.1`, the newest, and `<name>.2`, the one before."""

    def __init__(self, folder: Path, name: str, key: bytes) -> None:
        self._folder = folder
        self._key = key
        self._scratch = folder / f".{name}.new"  # proven: beside-the-newest
        self.newest, self.older = folder / f"{name}.1", folder / f"{name}.2"
        self._newest_is_whole = False
        """Whether this process wrote it. If not, it is opened before it is kept."""

    def save(self, header: Header, parts: Sequence[bytes]) -> None:
        """Write a new newest generation.

        Raises:
            OSError: it may be there or not. The generation readable before still is, unless this one replaced it.
            ValueError: the content is too long.
        """
        # A retry writes everything again, because bytes whose fsync failed must not be relied on.
        write_scratch(self._scratch, seal(self._key, header, parts))
        keep = self._is_newest_whole()
        self._newest_is_whole = False
        if keep:  # proven: damaged-is-not-kept
            # A damaged newest generation must not replace the whole one before it.
            self.newest.replace(self.older)
        self._scratch.replace(self.newest)
        sync_directory(self._folder)
        self._newest_is_whole = True

    def readable(self, expected: Expected, now_wall_seconds: float) -> Iterator[KnownGood]:
        """Iterate over the generations that open and are as expected, newest first. Each refusal is logged."""
        for path in (self.newest, self.older):
            try:
                known = self._open(path)
                require(expected, known, now_wall_seconds)
            except FileNotFoundError:
                continue
            except KnownGoodError as error:
                _log.error("LAST KNOWN GOOD REFUSED: %s", error)
                continue
            except OSError as error:
                _log.error("LAST KNOWN GOOD REFUSED: %s: errno %s", path, error.errno)
                continue
            yield known

    def _open(self, path: Path) -> KnownGood:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        return unseal(self._key, path, data)

    def _is_newest_whole(self) -> bool:
        if not self._newest_is_whole:
            try:
                self._open(self.newest)
            except (KnownGoodError, OSError):
                return False
        return True


def read_record(path: Path) -> str:
    """Read a line that is kept beside the files; empty when there is none."""
    try:
        return path.read_text("ascii").strip()
    except FileNotFoundError:
        return ""


def write_record(path: Path, line: str) -> None:
    """Keep a line beside the files, durably, whole or not at all."""
    if read_record(path) == line:
        return
    replace_file(path, line.encode("ascii") + b"\n")


def load_key(path: Path) -> bytes:
    """Read a key file. The first start makes it, with mode 0400.

    Raises:
        KnownGoodError: the file does not hold a key.
        OSError: it cannot be read or made.
    """
    key = read_or_create(path, lambda: os.urandom(KEY_BYTES))
    if len(key) != KEY_BYTES:
        raise DamagedError(path, f"holds {len(key)} bytes, a key has {KEY_BYTES}")
    return key
