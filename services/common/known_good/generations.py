"""The files of a last known good config: two generations, one of them whole whatever moment power fails at.

Blocking: call it from a thread.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

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


class FileOps(Protocol):
    """The steps of a save; tests let each of them fail."""

    def write(self, path: Path, pieces: Iterable[bytes]) -> None:
        """Write a file whole and make it durable."""
        ...

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name, replacing what had it."""
        ...

    def sync_directory(self, folder: Path) -> None:
        """Make names durable."""
        ...


class DiskOps:
    """The disk."""

    def write(self, path: Path, pieces: Iterable[bytes]) -> None:
        """Write a file whole and make it durable."""
        flags = os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_NOFOLLOW
        with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name, replacing what had it."""
        source.replace(target)

    def sync_directory(self, folder: Path) -> None:
        """Make names durable."""
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class Generations:
    """The two files of one process: `<name>.1`, the newest, and `<name>.2`, the one before."""

    def __init__(self, folder: Path, name: str, key: bytes, ops: FileOps | None = None) -> None:
        self._folder = folder
        self._key = key
        self._ops = ops or DiskOps()
        self._scratch = folder / f".{name}.new"
        self.newest, self.older = folder / f"{name}.1", folder / f"{name}.2"
        self._newest_is_whole = False
        """Whether this process wrote it; else it is looked at before it is kept."""

    def save(self, header: Header, parts: Sequence[bytes]) -> None:
        """Write a new newest generation.

        Raises:
            OSError: it may be there or not; what was readable before still is, or has been replaced by it.
            ValueError: it is too long.
        """
        # A retry writes everything again: what an earlier fsync failed on is never relied on.
        self._ops.write(self._scratch, seal(self._key, header, parts))
        keep = self._is_newest_whole()
        self._newest_is_whole = False
        if keep:
            # A damaged one never takes the place of the whole one before it.
            self._ops.rename(self.newest, self.older)
        self._ops.rename(self._scratch, self.newest)
        self._ops.sync_directory(self._folder)
        self._newest_is_whole = True

    def readable(self, expected: Expected, now_wall_seconds: float) -> Iterator[KnownGood]:
        """The generations that open and are what is expected, newest first; each refusal is logged."""
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
    """A line kept beside the files; empty for none."""
    try:
        return path.read_text("ascii").strip()
    except FileNotFoundError:
        return ""


def write_record(path: Path, line: str) -> None:
    """Keep a line, durably, whole or not at all."""
    if read_record(path) == line:
        return
    disk, scratch = DiskOps(), path.with_name(f".{path.name}.new")
    disk.write(scratch, [line.encode("ascii") + b"\n"])
    disk.rename(scratch, path)
    disk.sync_directory(path.parent)


def load_key(path: Path) -> bytes:
    """Read a key file, making it at the first start with mode 0400, whole or not at all.

    Raises:
        KnownGoodError: it holds something else.
        OSError: it cannot be read or made.
    """
    if not path.exists():
        scratch = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
        with os.fdopen(os.open(scratch, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o400), "wb") as file:
            file.write(os.urandom(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
        DiskOps().sync_directory(path.parent)
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise DamagedError(path, f"holds {len(key)} bytes, a key has {KEY_BYTES}")
    return key
