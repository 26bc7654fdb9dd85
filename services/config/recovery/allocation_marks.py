"""What was ever given out, kept outside etcd: after etcd was restored from a backup, its own counters are too low.

`allocated.json` in the state directory is on disk before etcd hears of a number. A tenant's ordinal has a mark of its
own. Adapter serials have none: they go with the restore epoch, which `services.config.recovery.restore` raises above
every epoch that was ever in force, and marks here first. Another config service's file may be the one it was marked
in, so
what etcd says of epoch and ordinals is marked here, too, before anybody goes by it.
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
    """The file of marks does not hold what was written to it: numbers given out can no longer be told."""


@dataclass(frozen=True, slots=True)
class Allocated:
    """The highest numbers that may have been given out."""

    ordinal: int = 0
    epoch: int = 0

    def or_higher(self, other: Allocated) -> Allocated:
        """The higher of each."""
        return Allocated(max(self.ordinal, other.ordinal), max(self.epoch, other.epoch))


def read_marks(path: Path) -> Allocated | None:
    """The marks of a file; None when there is no file.

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
    """Put marks on disk, whole or not at all; they survive a crash of the machine once this returns."""
    document = {"format": _FORMAT, "ordinal": marks.ordinal, "epoch": marks.epoch}
    replace_file(path, json.dumps(document).encode())


class MarkedStore:
    """A store in which no tenant's ordinal is written, and no epoch or ordinal read, before its mark is on disk."""

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
        """Mark what etcd says; returns once it has answered, and the disk has taken it."""
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
        """As the store; what it says of ordinals and the epoch is marked.

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
        """As the store."""
        return await self._store.list(prefix)

    async def write(
        self, conditions: Sequence[Expect | Unchanged], puts: Mapping[str, bytes], deletes: Sequence[str] = ()
    ) -> int | None:
        """As the store; a write of the ordinals' counter waits for its mark.

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
