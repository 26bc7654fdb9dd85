"""A directory built once, published atomically, and checked by digest whenever it is opened."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_MANIFEST = "manifest.json"
_LOCK_POLL_SECONDS = 0.1
_READ_BYTES = 1 << 20


class LockTimeoutError(Exception):
    """Another process held the lock for longer than the deadline."""


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
    *,
    source_sha256: str,
    lock_timeout_seconds: float = 300.0,
    on_verify: Callable[[int, int], None] | None = None,
) -> dict[str, str]:
    """Return the digests of an intact directory, building it first where it is missing or damaged.

    Processes that share the parent directory take turns: one builds, the others find it built. A reader that
    has files of a damaged directory open keeps them; they are unlinked, not changed.

    Args:
        target: The directory; its parent is created.
        build: Fills the empty directory it is given.
        source_sha256: Digest of what `build` reads. A directory built from anything else counts as damaged.
        lock_timeout_seconds: How long to wait for another process that is building.
        on_verify: Called with (bytes checked, bytes in all).

    Returns:
        Each file's path relative to the directory, and its SHA-256.

    Raises:
        LockTimeoutError: another process did not finish in time.
        OSError: the directory cannot be written or the disk is full.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with _exclusive_lock(target.with_name(f".{target.name}.lock"), lock_timeout_seconds):
        digests = _verify(target, source_sha256, on_verify)
        if digests is not None:
            return digests
        _remove_leftovers(target)
        scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.building-"))
        try:
            build(scratch)
            digests = _seal(scratch, source_sha256)
            if target.exists():
                target.rename(target.with_name(f".{target.name}.damaged-{os.getpid()}"))
            scratch.chmod(0o755)
            scratch.rename(target)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        _sync(target.parent)
        _remove_leftovers(target)
        return digests


def _verify(
    target: Path, source_sha256: str, on_verify: Callable[[int, int], None] | None
) -> dict[str, str] | None:
    try:
        manifest = json.loads((target / _MANIFEST).read_bytes())
        files: dict[str, str] = manifest["files"]
        if manifest["source_sha256"] != source_sha256:
            return None
        total = sum((target / name).stat().st_size for name in files)
        before = 0
        for name, expected in files.items():

            def progress(read_bytes: int, before: int = before) -> None:
                if on_verify:
                    on_verify(before + read_bytes, total)

            if file_sha256(target / name, progress) != expected:
                return None
            before += (target / name).stat().st_size
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return files


def _seal(directory: Path, source_sha256: str) -> dict[str, str]:
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    digests = {str(path.relative_to(directory)): file_sha256(path) for path in paths}
    manifest = {"source_sha256": source_sha256, "files": digests}
    (directory / _MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", "utf-8")
    for path in [*directory.rglob("*"), directory]:
        _sync(path)
    return digests


def _remove_leftovers(target: Path) -> None:
    # Whoever was killed halfway left these; the lock says that nobody is at work on them now.
    for pattern in (f".{target.name}.building-*", f".{target.name}.damaged-*"):
        for leftover in target.parent.glob(pattern):
            shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def _exclusive_lock(path: Path, timeout_seconds: float) -> Iterator[None]:
    deadline = time.monotonic() + timeout_seconds
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    message = f"{path} is held by another process for more than {timeout_seconds:.0f} s"
                    raise LockTimeoutError(message) from None
                time.sleep(_LOCK_POLL_SECONDS)
        yield  # closing the file releases the lock


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
