"""Writes an audit bundle from a stream of pieces into a folder: whole or not at all, and never outside the folder.

The server is not trusted with paths: a bundle is evidence, and may come from the party that it accuses.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from services.common.command_errors import CommandError, UsageError
from services.common.durable_files import sync, sync_directory

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
MAX_DEPTH = 4
MAX_FILES = 10_000


class BundleError(CommandError):
    """The stream is not a bundle. Nothing of it was kept."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"the export was dropped: the server sent {what}.",
            "Nothing was written. Try again; if it repeats, do not trust this server.",
        )


def _parts(path: str) -> tuple[str, ...]:
    parts = tuple(path.split("/"))
    if len(parts) > MAX_DEPTH or not all(_NAME.fullmatch(part) for part in parts):
        raise BundleError("a file path that has no place in a bundle")
    return parts


class BundleFolder:
    """Collects a bundle beside its destination and moves it there in one step.

    Use it as a context manager: an unfinished bundle is removed. Files have mode 0600, since they hold text of tenants.
    """

    def __init__(self, destination: Path) -> None:
        self._destination = destination
        self._scratch: Path | None = None
        self._open: BinaryIO | None = None
        self._open_path = ""
        self._seen: set[str] = set()
        self.size_bytes = 0

    @property
    def files(self) -> int:
        """Files begun so far."""
        return len(self._seen)

    def __enter__(self) -> Self:
        """Prepare.

        Raises:
            UsageError: the destination is not a folder, or not an empty one.
        """
        require_free(self._destination)
        parent = self._destination.absolute().parent
        try:
            parent.mkdir(parents=True, exist_ok=True)
            self._scratch = Path(tempfile.mkdtemp(dir=parent, prefix=f".{self._destination.name}."))
        except OSError as error:
            raise CommandError(f"cannot write in {parent}: {error.strerror}.") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove what was not finished."""
        if self._open is not None:
            # The buffered rest is of no use, and a full disk would refuse it once more.
            with suppress(OSError):
                self._open.close()
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def add(self, path: str, data: bytes, *, last: bool) -> None:
        """Write the next piece of a file. Files come one after another.

        Raises:
            BundleError: the path leads elsewhere, comes again, or comes before the file before it has ended.
            CommandError: it cannot be written.
        """
        try:
            self._add(path, data, last=last)
        except OSError as error:
            raise CommandError(
                f"cannot write {self._destination}: {error.strerror}.",
                "Nothing was kept. Free space and repeat.",
            ) from None

    def _add(self, path: str, data: bytes, *, last: bool) -> None:
        if self._open is None:
            self._begin(path)
        elif path != self._open_path:
            raise BundleError("a second file before the first had ended")
        assert self._open is not None
        self._open.write(data)
        self.size_bytes += len(data)
        if last:
            self._open.flush()
            sync(self._open.fileno())
            self._open.close()
            self._open = None

    def _begin(self, path: str) -> None:
        assert self._scratch is not None
        parts = _parts(path)
        if path in self._seen:
            raise BundleError("a file twice")
        if len(self._seen) >= MAX_FILES:
            raise BundleError(f"more than {MAX_FILES} files")
        self._seen.add(path)
        target = self._scratch.joinpath(*parts)
        try:
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        except (FileExistsError, NotADirectoryError):
            raise BundleError("a file where it has a folder, or the reverse") from None
        self._open = os.fdopen(handle, "wb")
        self._open_path = path

    def finish(self) -> None:
        """Move the bundle to its destination.

        Raises:
            BundleError: the last file has not ended, or there is none.
            UsageError: the destination was filled meanwhile.
        """
        if self._open is not None or not self._seen:
            raise BundleError("only a part of the bundle")
        assert self._scratch is not None
        try:
            for folder, _, _ in os.walk(self._scratch):
                sync_directory(Path(folder))
            # A rename replaces an empty folder or nothing at all, never a filled one.
            self._scratch.rename(self._destination.absolute())
        except OSError as error:
            raise UsageError(f"cannot write {self._destination}: {error.strerror}.") from None
        self._scratch = None
        sync_directory(self._destination.absolute().parent)


def require_free(destination: Path) -> None:
    """Refuse a destination that holds anything.

    Raises:
        UsageError: it does.
    """
    if destination.is_symlink() or (destination.exists() and not destination.is_dir()):
        raise UsageError(f"{destination} is not a folder.", "Give --out a folder that is empty or not there.")
    if destination.exists() and any(destination.iterdir()):
        raise UsageError(f"{destination} is not empty.", "Give --out a folder that is empty or not there.")
