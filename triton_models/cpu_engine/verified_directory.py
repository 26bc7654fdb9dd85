"""A directory built once, published atomically, and checked by digest whenever it is opened.

The digests are the caller's, not the directory's own: a program that can change a file can change a list beside it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_LOCK_POLL_SECONDS = 0.1
_READ_BYTES = 1 << 20


class LockTimeoutError(Exception):
    """Another process held the lock for longer than the deadline."""


class UnexpectedBuildError(Exception):
    """The files built have other digests than expected; the text names them."""


def file_sha256(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """The SHA-256 of a file, lowercase hex; `progress` gets the bytes read so far."""
    digest, read_bytes = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_READ_BYTES):
            digest.update(chunk)
            read_bytes += len(chunk)
            if progress:
                progress(read_bytes)
    return digest.hexdigest()


def open_or_build(
    target: Path,
    build: Callable[[Path], None],
    expected: Mapping[str, str],
    *,
    lock_timeout_seconds: float = 300.0,
    on_verify: Callable[[int, int], None] | None = None,
    on_wait: Callable[[int, int], None] | None = None,
) -> None:
    """Make sure that a directory holds the files expected, building it where it is missing or holds anything else.

    Processes that share the parent directory take turns: one builds, the others find it built. A reader that
    has files of a damaged directory open keeps them; they are unlinked, not changed.

    Args:
        target: The directory; its parent is created.
        build: Fills the empty directory it is given.
        expected: Each file's path relative to the directory, and its SHA-256.
        lock_timeout_seconds: How long to wait for another process that is building.
        on_verify: Called with (bytes checked, bytes in all).
        on_wait: Called with (seconds waited, seconds in all) while another process is building.

    Raises:
        LockTimeoutError: another process did not finish in time.
        UnexpectedBuildError: `build` makes something else; nothing of it is kept.
        OSError: the directory cannot be written or the disk is full.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with _exclusive_lock(target.with_name(f".{target.name}.lock"), lock_timeout_seconds, on_wait):
        if not _damaged(target, expected, on_verify):
            return
        _remove_leftovers(target)
        scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.building-"))
        try:
            build(scratch)
            _require(scratch, expected)
            for path in [*scratch.rglob("*"), scratch]:
                _sync(path)
            if target.exists():
                target.rename(target.with_name(f".{target.name}.damaged-{os.getpid()}"))
            scratch.chmod(0o755)
            scratch.rename(target)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        _sync(target.parent)
        _remove_leftovers(target)


def _damaged(
    directory: Path, expected: Mapping[str, str], on_verify: Callable[[int, int], None] | None
) -> bool:
    try:
        return bool(_differing(directory, expected, on_verify))
    except OSError:  # a file that cannot be read, or vanishes meanwhile, is not the one built
        return True


def _require(directory: Path, expected: Mapping[str, str]) -> None:
    if differing := _differing(directory, expected, None):
        raise UnexpectedBuildError(f"not as expected: {', '.join(sorted(differing))}")


def _differing(
    directory: Path, expected: Mapping[str, str], on_verify: Callable[[int, int], None] | None
) -> set[str]:
    """The files that are missing, too many or not those expected; none is read unless all the names are right."""
    found = {
        str(path.relative_to(directory)) for path in directory.rglob("*") if not _is_plain_directory(path)
    }
    odd = found ^ expected.keys()
    odd |= {name for name in found if (directory / name).is_symlink() or not (directory / name).is_file()}
    if odd:
        return odd
    sizes = {name: (directory / name).stat().st_size for name in expected}
    differing, before = set(), 0
    for name in expected:

        def progress(read_bytes: int, before: int = before) -> None:
            if on_verify:
                on_verify(before + read_bytes, sum(sizes.values()))

        if file_sha256(directory / name, progress) != expected[name]:
            differing.add(name)
        before += sizes[name]
    return differing


def _is_plain_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _remove_leftovers(target: Path) -> None:
    # Left by builders that were killed; we hold the lock, so no other builder is at work.
    for pattern in (f".{target.name}.building-*", f".{target.name}.damaged-*"):
        for leftover in target.parent.glob(pattern):
            shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def _exclusive_lock(
    path: Path, timeout_seconds: float, on_wait: Callable[[int, int], None] | None
) -> Iterator[None]:
    began = time.monotonic()
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                waited_seconds = time.monotonic() - began
                if waited_seconds > timeout_seconds:
                    message = f"{path} is held by another process for more than {timeout_seconds:.0f} s"
                    raise LockTimeoutError(message) from None
                if on_wait:
                    on_wait(int(waited_seconds), int(timeout_seconds))
                time.sleep(_LOCK_POLL_SECONDS)
        yield  # closing the file releases the lock


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
