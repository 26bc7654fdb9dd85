"""Durable writes. The only file of the service that calls fsync or replaces a file.

An error of fsync is the end: the kernel may have dropped the dirty pages and marked them clean, so that a
retry would report a success that never was (Rebello et al., "Can Applications Recover from fsync Failures?",
ATC '20). A write that fails, because the disk is full for example, ends the process as well: what is in memory and
what is on disk may differ then, and a restart makes them one again.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

EXIT_FSYNC_FAILED = 74
EXIT_WRITE_FAILED = 75
_SCRATCH_BYTES = 8


def die_of_fsync(error: OSError) -> NoReturn:
    """Leave at once, without cleaning up: nothing unsynced may be acknowledged."""
    sys.stderr.write(f"fsync failed with errno {error.errno}; exiting, because a retry would lie\n")
    sys.stderr.flush()
    os._exit(EXIT_FSYNC_FAILED)


def die_of_write(error: OSError) -> NoReturn:
    """Leave at once: a batch is in memory and not on disk, or only in part."""
    sys.stderr.write(
        f"a write failed with errno {error.errno}; exiting, to start again from what is durable\n"
    )
    sys.stderr.flush()
    os._exit(EXIT_WRITE_FAILED)


def sync_data(descriptor: int) -> None:
    """fdatasync, or the end of the process."""
    try:
        os.fdatasync(descriptor)
    except OSError as error:
        die_of_fsync(error)


def sync_file(path: Path) -> None:
    """Make durable what a file holds, whoever wrote it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        sync_data(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(folder: Path) -> None:
    """Make created, renamed and removed names of a folder durable, or end the process."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        die_of_fsync(error)
    finally:
        os.close(descriptor)


def make_directory(folder: Path) -> None:
    """Create a private folder with its parents, durably."""
    if folder.is_dir():
        return
    make_directory(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    sync_directory(folder.parent)


def replace_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write a whole file: all of the new bytes or all of the old ones, whatever happens."""
    replace_files({path: data}, mode)


def replace_files(files: Mapping[Path, bytes], mode: int = 0o600) -> None:
    """Write whole files of one folder, each all new or all old, for fewer syncs than one by one."""
    scratches: list[tuple[Path, Path]] = []
    for path, data in files.items():
        scratch = path.with_name(f".{path.name}.{secrets.token_hex(_SCRATCH_BYTES)}")
        descriptor = os.open(scratch, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
        try:
            write_all(descriptor, data)
            sync_data(descriptor)
        finally:
            os.close(descriptor)
        scratches.append((scratch, path))
    for scratch, path in scratches:
        scratch.replace(path)
    for folder in {path.parent for path in files}:
        sync_directory(folder)


def remove_scratch_copies(folder: Path) -> None:
    """Remove what crashes left of `replace_file` in a folder; only where nobody else writes."""
    for path in folder.glob(".*.*"):
        if path.is_file() and len(path.suffix) == 2 * _SCRATCH_BYTES + 1:
            path.unlink(missing_ok=True)


def write_all(descriptor: int, data: bytes) -> None:
    """Write every byte, over short writes."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def append_durably(path: Path, data: bytes, at: int) -> None:
    """Put bytes at an offset and cut the file behind them; what a torn earlier write left is overwritten."""
    existed = path.exists()
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        os.lseek(descriptor, at, os.SEEK_SET)
        write_all(descriptor, data)
        os.ftruncate(descriptor, at + len(data))
        sync_data(descriptor)
    finally:
        os.close(descriptor)
    if not existed:
        sync_directory(path.parent)


def create_preallocated(path: Path, size_bytes: int) -> int:
    """Create a file of zeros to be overwritten; returns its descriptor."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    os.posix_fallocate(descriptor, 0, size_bytes)
    sync_data(descriptor)
    sync_directory(path.parent)
    return descriptor


def remove_file(path: Path) -> None:
    """Remove a file durably."""
    path.unlink(missing_ok=True)
    sync_directory(path.parent)
