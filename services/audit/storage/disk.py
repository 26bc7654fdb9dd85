"""Writes into the journal and at the end of segments, and the end of the process when a write fails.

A failed fsync ends the process: `services.common.durable_files` says why. Any other failed write, for example on a full
disk, ends it as well: memory and disk may differ then, and a restart makes them the same again. The appender is the
only place that handles these errors.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

from services.common.durable_files import SyncFailedError, sync_directory, write_all

EXIT_FSYNC_FAILED = 74
EXIT_WRITE_FAILED = 75


def die_of_disk(error: OSError) -> NoReturn:
    """Leave at once, without cleaning up: nothing that is not synced may be acknowledged."""
    if isinstance(error, SyncFailedError):
        status, why = EXIT_FSYNC_FAILED, "fsync failed with errno {}; exiting, because a retry would lie"
    else:
        status = EXIT_WRITE_FAILED
        why = "a write failed with errno {}; exiting, to start again from what is durable"
    sys.stderr.write(why.format(error.errno) + "\n")
    sys.stderr.flush()
    os._exit(status)


def sync_data(descriptor: int) -> None:
    """Make the bytes of an open file durable, with fdatasync.

    Raises:
        SyncFailedError: it failed.
    """
    try:
        os.fdatasync(descriptor)
    except OSError as error:
        raise SyncFailedError(error.errno, "fdatasync failed") from None


def write_at(path: Path, data: bytes, offset: int) -> None:
    """Write bytes at an offset and cut the file after them, durably; overwrites what a torn earlier write left there.

    Raises:
        OSError: the bytes up to `offset` are as they were.
    """
    existed = path.exists()
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        os.lseek(descriptor, offset, os.SEEK_SET)
        write_all(descriptor, data)
        os.ftruncate(descriptor, offset + len(data))
        sync_data(descriptor)
    finally:
        os.close(descriptor)
    if not existed:
        sync_directory(path.parent)


def create_preallocated(path: Path, size_bytes: int) -> int:
    """Create a file of zeros that later writes overwrite; returns its descriptor.

    Raises:
        OSError: there is no room, or the file exists.
    """
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size_bytes)
        sync_data(descriptor)
        sync_directory(path.parent)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
