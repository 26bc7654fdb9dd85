"""Loss of power at any moment of a write: what the disk may hold afterwards, and calls of the kernel that fail.

The model is a disk that keeps what was synced and anything of the rest: of a file's bytes none, half or all, of a
folder's new names any subset. It is harsher than any file system.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest


class PowerFailureError(Exception):
    """Nothing after it happens."""


Names = tuple[tuple[Path, int | None], ...]
"""Names that change together, each with the number of its file; None for a removal."""


@dataclass
class _File:
    synced: bytes | None = None
    data: bytes = b""


@dataclass
class Disk:
    """Files and names as the kernel has them, and as the platter is sure to have them."""

    files: dict[int, _File] = field(default_factory=dict)
    names: dict[Path, int] = field(default_factory=dict)
    """Durable names."""
    pending: list[Names] = field(default_factory=list)
    """Changes of names that are not synced, in order."""

    def outcomes(self) -> Iterator[dict[Path, bytes]]:
        """Every content the disk may have after power fails now."""
        seen = set()
        kept = itertools.product([False, True], repeat=len(self.pending))
        for some in kept:
            names = dict(self.names)
            for change, keep in zip(self.pending, some, strict=True):
                if keep:
                    _apply(names, change)
            contents = [self._contents(number) for number in names.values()]
            for data in itertools.product(*contents):
                found = tuple(sorted(zip(names, data, strict=True)))
                if found not in seen:
                    seen.add(found)
                    yield dict(found)

    def _contents(self, number: int) -> list[bytes]:
        file = self.files[number]
        if file.synced == file.data:
            return [file.data]
        half = file.data[: len(file.data) // 2]
        return list(dict.fromkeys([file.synced or b"", half, file.data]))


def _apply(names: dict[Path, int], change: Names) -> None:
    for path, number in change:
        if number is None:
            names.pop(path, None)
        else:
            names[path] = number


class Recorder:
    """Does what the kernel does and notes it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.moments: list[Callable[[Disk], None]] = []
        """What each call changed."""
        self._start = Disk()
        self._numbers: dict[Path, int] = {}
        """Of the files that have a name now."""
        for number, path in enumerate(path for path in sorted(folder.rglob("*")) if path.is_file()):
            data = path.read_bytes()
            self._start.files[number] = _File(data, data)
            self._start.names[path] = self._numbers[path] = number
        self._next = len(self._numbers)
        self._descriptors: dict[int, tuple[Path, int]] = {}
        """Path and file number by descriptor; of folders the number is -1."""

    def disks(self) -> Iterator[Disk]:
        """The disk before the first call, after it, after the second, and so on."""
        disk = self._start
        yield disk
        for moment in self.moments:
            moment(disk)
            yield disk

    def outcomes(self) -> tuple[list[dict[Path, bytes]], list[dict[Path, bytes]]]:
        """What the disk may hold when power fails between any two calls, and after the last."""
        found: list[dict[Path, bytes]] = []
        last: list[dict[Path, bytes]] = []
        for disk in self.disks():
            last = list(disk.outcomes())
            found += [one for one in last if one not in found]
        return found, last

    def _note(self, change: Callable[[Disk], None]) -> None:
        self.moments.append(change)

    def _rename(self, *change: tuple[Path, int | None]) -> None:
        self._note(lambda disk: disk.pending.append(change))
        _apply(self._numbers, change)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note every call of `os` while it lasts."""
        with pytest.MonkeyPatch.context() as patch:
            for name in ("open", "write", "fsync", "close", "replace", "link", "unlink"):
                patch.setattr(os, name, functools.partial(getattr(self, f"_{name}"), getattr(os, name)))
            yield

    def _open(self, real, path, flags, mode=0o777, **kwargs):
        path = Path(path)
        is_new = bool(flags & os.O_CREAT) and not path.exists()
        descriptor = real(path, flags, mode, **kwargs)
        if is_new:
            number, self._next = self._next, self._next + 1
            self._note(lambda disk: disk.files.__setitem__(number, _File()))
            self._rename((path, number))
        else:
            number = self._numbers.get(path, -1)
            if flags & os.O_TRUNC:
                self._note(lambda disk: setattr(disk.files[number], "data", b""))
        self._descriptors[descriptor] = (path, number)
        return descriptor

    def _write(self, real, descriptor, data):
        count = real(descriptor, data)
        _, number = self._descriptors[descriptor]
        more = bytes(data[:count])

        def change(disk):
            disk.files[number].data += more

        self._note(change)
        return count

    def _fsync(self, real, descriptor):
        real(descriptor)
        path, number = self._descriptors[descriptor]

        def change(disk):
            if number >= 0:
                disk.files[number].synced = disk.files[number].data
                return
            for one in [one for one in disk.pending if any(name.parent == path for name, _ in one)]:
                _apply(disk.names, one)
                disk.pending.remove(one)

        self._note(change)

    def _close(self, real, descriptor):
        real(descriptor)
        self._descriptors.pop(descriptor, None)

    def _replace(self, real, source, target, **kwargs):
        real(source, target, **kwargs)
        self._rename((Path(target), self._numbers[Path(source)]), (Path(source), None))

    def _link(self, real, source, target, **kwargs):
        real(source, target, **kwargs)
        self._rename((Path(target), self._numbers[Path(source)]))

    def _unlink(self, real, path, **kwargs):
        real(path, **kwargs)
        self._rename((Path(path), None))


def recorded(folder: Path, work: Callable[[], object]) -> Recorder:
    """The calls of a piece of work that succeeds, in a folder."""
    recorder = Recorder(folder)
    with recorder.watching():
        work()
    return recorder


CALLS = ("open", "write", "fsync", "replace", "link", "unlink")


@contextmanager
def failing_call(place: int, failure: BaseException, *, after: bool = False) -> Iterator[list[str]]:
    """Let a call of the kernel fail, before it happens or after; yields the names of the calls up to there."""
    seen: list[str] = []

    def counted(name, real):
        def call(*arguments, **kwargs):
            seen.append(name)
            is_due = len(seen) - 1 == place
            if is_due and not after:
                raise failure
            found = real(*arguments, **kwargs)
            if is_due:
                raise failure
            return found

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, counted(name, getattr(os, name)))
        yield seen


def restore(folder: Path, contents: dict[Path, bytes]) -> None:
    """Make a folder hold what a disk held."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_file() or path.is_symlink():
            path.unlink()
    for path, data in contents.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
