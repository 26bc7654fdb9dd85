"""Durable files: after a crash at any moment, a file holds all of its old bytes or all of its new ones.

A replacement writes a scratch file beside the target, syncs it, renames it over the target and syncs the folder. When
the call returns, the new bytes survive a loss of power. A failed fsync is never retried on the same file: the kernel
may have dropped the dirty pages and marked them clean, so that the retry would report a success that never was
(Rebello et al., "Can Applications Recover from fsync Failures?", ATC '20). Blocking: call it off the event loop.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

_SCRATCH_BYTES = 8
# What file systems without hard links answer.
_NO_LINKS = frozenset((errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS))


class SyncFailedError(OSError):
    """An fsync failed: it is unknown whether the bytes are on disk. Carries the kernel's errno."""


def replace_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write a whole file, replacing the one there; makes missing folders with mode 0700.

    Raises:
        SyncFailedError: the file may have its old bytes or its new ones.
        OSError: the file is as it was.
    """
    make_directory(path.parent)
    replace_files({path: data}, mode)


def replace_files(files: Mapping[Path, bytes], mode: int = 0o600) -> None:
    """Write whole files, each all old or all new after a crash, with one sync for each folder.

    Raises:
        SyncFailedError: each file may have its old bytes or its new ones.
        OSError: each file has its old bytes or its new ones.
    """
    scratches: dict[Path, Path] = {}
    try:
        for path, data in files.items():
            scratches[path] = scratch = _scratch_of(path)
            _write_new(scratch, [data], os.O_EXCL, mode)
        for path, scratch in scratches.items():
            scratch.replace(path)
    except BaseException:
        for scratch in scratches.values():
            scratch.unlink(missing_ok=True)
        raise
    for folder in {path.parent for path in files}:
        sync_directory(folder)  # proven: name-before-return


def create_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write a new file: it is there whole or not at all, and never replaces another.

    On a file system without hard links the name is taken first, so that a crash may leave a file without content.
    A crash between link and unlink leaves the bytes under a scratch name as well, which the next call for the same file
    removes.

    Raises:
        FileExistsError: the name is taken; what is there is left alone.
        SyncFailedError: the file may be there or not.
        OSError: there is no such file.
    """
    _remove_second_names(path)
    scratch = _scratch_of(path)
    try:
        _write_new(scratch, [data], os.O_EXCL, mode)
        _link(scratch, path, data, mode)
    finally:
        scratch.unlink(missing_ok=True)
    sync_directory(path.parent)


def read_or_create(path: Path, make: Callable[[], bytes], mode: int = 0o400) -> bytes:
    """The bytes of a file, which is created with what `make` returns when it is missing.

    Of several processes that create it at once, one succeeds and all get its bytes.

    Raises:
        OSError: the file cannot be read or created.
    """
    if not path.exists():
        with contextlib.suppress(FileExistsError):
            create_file(path, make(), mode)
            return path.read_bytes()
    _remove_second_names(path)
    # The process that made it may not have synced the folder yet, and its bytes are relied on from here.
    sync_directory(path.parent)  # proven: a-name-found-is-made-durable
    return path.read_bytes()


def write_scratch(path: Path, pieces: Iterable[bytes]) -> None:
    """Write and sync a file of mode 0600 under a fixed scratch name, over what a crash left there.

    The caller renames it and syncs the folder. A symbolic link is not followed.

    Raises:
        SyncFailedError: the file must not be used.
        OSError: it could not be written.
    """
    _write_new(path, pieces, os.O_TRUNC | os.O_NOFOLLOW, 0o600)


def write_all(descriptor: int, data: bytes) -> None:
    """Write every byte, over short writes."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def remove_file(path: Path) -> None:
    """Remove a file durably; a missing one is no error."""
    path.unlink(missing_ok=True)
    sync_directory(path.parent)


def make_directory(folder: Path) -> None:
    """Make a folder of mode 0700 and its missing parents, durably."""
    if folder.is_dir():
        return
    make_directory(folder.parent)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        if not folder.is_dir():
            raise
    sync_directory(folder.parent)


def sync_file(path: Path) -> None:
    """Make the bytes of a file durable, also those another process wrote.

    Raises:
        SyncFailedError: they may not be.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(folder: Path) -> None:
    """Make created, renamed and removed names of a folder durable.

    Raises:
        SyncFailedError: they may not be.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def sync(descriptor: int) -> None:
    """Fsync an open file or folder.

    Raises:
        SyncFailedError: it failed.
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise SyncFailedError(error.errno, "fsync failed") from None


def remove_scratch_files(folder: Path) -> None:
    """Remove the scratch files that crashes left in a folder; only where no other process writes."""
    for path in folder.glob(".*.*"):
        if path.is_file() and len(path.suffix) == 2 * _SCRATCH_BYTES + 1:
            path.unlink(missing_ok=True)


def _remove_second_names(path: Path) -> None:
    """Remove the scratch names of a file that is there; those of files that are still being written are no such."""
    try:
        there = path.lstat()
    except FileNotFoundError:
        return
    if there.st_nlink == 1:
        return
    for scratch in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 2 * _SCRATCH_BYTES}"):
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(scratch.lstat(), there):
                scratch.unlink()  # proven: second-names-are-removed


def _scratch_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(_SCRATCH_BYTES)}")


def _write_new(path: Path, pieces: Iterable[bytes], flags: int, mode: int) -> None:
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | flags, mode)
    try:
        for piece in pieces:
            write_all(descriptor, piece)
        sync(descriptor)  # proven: bytes-before-name
    finally:
        os.close(descriptor)


def _link(scratch: Path, path: Path, data: bytes, mode: int) -> None:
    try:
        os.link(scratch, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _create_in_place(path, data, mode)


def _create_in_place(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
    try:
        write_all(descriptor, data)
        sync(descriptor)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
