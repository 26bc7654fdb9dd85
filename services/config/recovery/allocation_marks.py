"""Keeps the highest numbers ever given out on disk: after a restore from a backup, etcd's own counters are too low.

`allocated.json` in the state directory is on disk before a number is written to etcd. It holds the highest tenant
ordinal and the restore epoch. Adapter serials need no mark: `services.config.recovery.restore` raises the epoch above
every epoch that was ever in force, and marks it here first. Another config service's file may be the one that was
marked, so the ordinals and the epoch that etcd shows are marked here too, before they are used.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.common.backoff import Backoff
from services.common.durable_files import replace_file
from services.config.etcd import keys as etcd_keys
from services.config.etcd.store import ConfigStore, Expect, Stored, StoreUnavailableError, Unchanged
from services.config.state.allocation import MAX_EPOCH, MAX_ORDINAL

FILE = "allocated.json"
_FORMAT = 1


class MarksDamagedError(Exception):
    """The file of marks is damaged: the numbers given out are not known."""


@dataclass(frozen=True, slots=True)
class Allocated:
    """The highest numbers that may have been given out."""

    ordinal: int = 0
    epoch: int = 0

    def or_higher(self, other: Allocated) -> Allocated:
        """The higher of each."""
        return Allocated(max(self.ordinal, other.ordinal), max(self.epoch, other.epoch))


def read_marks(path: Path) -> Allocated | None:
    """Read the marks of a file; None when there is no file.

    Raises:
        MarksDamagedError: it does not parse.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        document = json.loads(text)
        marks = Allocated(document["ordinal"], document["epoch"])
        whole = document["format"] == _FORMAT and type(marks.ordinal) is type(marks.epoch) is int
    except (ValueError, KeyError, TypeError):
        raise MarksDamagedError from None
    if not (whole and 0 <= marks.ordinal <= MAX_ORDINAL and 0 <= marks.epoch <= MAX_EPOCH):
        raise MarksDamagedError
    return marks


def write_marks(path: Path, marks: Allocated) -> None:
    """Write marks to disk, whole or not at all; once this returns they survive a crash of the machine."""
    document = {"format": _FORMAT, "ordinal": marks.ordinal, "epoch": marks.epoch}
    replace_file(path, json.dumps(document).encode())


class MarkedStore:
    """A store that marks ordinals on disk before they are written, and what it reads before it is returned."""

    def __init__(self, store: ConfigStore, state_dir: Path) -> None:
        """Read the marks.

        Raises:
            MarksDamagedError: they cannot be read.
        """
        self._store = store
        self._path = state_dir / FILE
        self._marks = read_marks(self._path) or Allocated()
        self._marking = asyncio.Lock()

    async def learn(self) -> None:
        """Mark the numbers in etcd; returns once they are on disk."""
        backoff = Backoff(0.1, 5.0)
        while True:
            try:
                await self.get(etcd_keys.ordinal_counter_key())
                await self.get(etcd_keys.epoch_key())
            except (StoreUnavailableError, OSError):
                await asyncio.sleep(backoff.next_delay_seconds())
            else:
                return

    async def get(self, key: str) -> Stored | None:
        """Read from the store, and mark what it says of ordinals and the epoch.

        Raises:
            OSError: the mark could not be put on disk.
        """
        stored = await self._store.get(key)
        if stored is not None and key == etcd_keys.ordinal_counter_key():
            await self._mark(Allocated(ordinal=int(stored.value)))
        if stored is not None and key == etcd_keys.epoch_key():
            await self._mark(Allocated(epoch=int(stored.value)))  # proven: epochs-are-marked
        return stored

    async def list(self, prefix: str) -> tuple[dict[str, Stored], int]:
        """List from the store."""
        return await self._store.list(prefix)

    async def write(
        self, conditions: Sequence[Expect | Unchanged], puts: Mapping[str, bytes], deletes: Sequence[str] = ()
    ) -> int | None:
        """Write to the store; the counter of ordinals is marked first.

        Raises:
            OSError: the mark could not be put on disk; nothing was written.
        """
        counter = puts.get(etcd_keys.ordinal_counter_key())
        if counter is not None:  # proven: ordinals-are-marked-first
            await self._mark(Allocated(ordinal=int(counter)))
        return await self._store.write(conditions, puts, deletes)

    async def _mark(self, allocated: Allocated) -> None:
        async with self._marking:
            marks = self._marks.or_higher(allocated)
            if marks != self._marks:
                await asyncio.to_thread(write_marks, self._path, marks)
                self._marks = marks
