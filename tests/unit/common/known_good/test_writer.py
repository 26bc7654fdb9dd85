"""The file is written after a change, not too often, again after a failure, and never dated newer than it is."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from services.common.known_good import writer as writer_module
from services.common.known_good.generations import Generations
from services.common.known_good.sealed_file import Expected, Header, Kind
from services.common.known_good.writer import Content, KnownGoodWriter
from tests.fakes.patience import PATIENCE_SECONDS

KEY = bytes(range(32))
SOON_SECONDS = 0.02


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not true():  # noqa: ASYNC110 - looks at a disk
            await asyncio.sleep(0.005)


class Files(Generations):
    """Counts what is written; fails or waits where a test says so."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "known-good", KEY)
        self.writes = 0
        self.full = False
        self.free = threading.Event()
        self.free.set()

    def save(self, header: Header, parts: Sequence[bytes]) -> None:
        self.writes += 1
        assert self.free.wait(10)
        if self.full:
            raise OSError(errno.ENOSPC, "no space")
        super().save(header, parts)


class Kept:
    """A writer, its disk, and the revision in force, current at a time of the test's choice."""

    def __init__(self, folder: Path, every_seconds: float = SOON_SECONDS, **settle) -> None:
        self.files, self.registry = Files(folder), CollectorRegistry()
        self.revision, self.current_ms, self.takes = 0, 1_000_000, 0
        self.writer = KnownGoodWriter(
            self.files, self._take, self.registry, every_seconds=every_seconds, **settle
        )

    def _take(self) -> Content | None:
        revision, self.takes = self.revision, self.takes + 1
        header = Header(Kind.CONFIG, "", "config", revision, self.current_ms)
        return Content(header, lambda: [b"%d" % revision]) if revision else None

    def change(self) -> None:
        self.revision += 1
        self.writer.changed()

    def on_disk(self) -> list[Header]:
        expected = Expected(Kind.CONFIG, "config", 10_000.0)
        return [known.header for known in self.files.readable(expected, self.current_ms / 1000)]

    async def reaches(self, revision: int) -> None:
        await until(lambda: [header.revision for header in self.on_disk()][:1] == [revision])

    @asynccontextmanager
    async def running(self):
        task = asyncio.create_task(self.writer.run())
        try:
            yield self
            assert not task.done()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self.writer.finish(5)


async def test_a_change_is_written_and_changes_in_between_are_one_write(tmp_path):
    async with Kept(tmp_path).running() as kept:
        for _ in range(50):
            kept.change()
        await kept.reaches(50)
        assert kept.files.writes == 1


async def test_the_next_write_waits_and_a_clean_stop_does_not(tmp_path):
    kept = Kept(tmp_path, every_seconds=60.0)
    async with kept.running():
        kept.change()
        await kept.reaches(1)
        kept.change()
        await asyncio.sleep(0.1)
        assert kept.files.writes == 1
    assert [header.revision for header in kept.on_disk()] == [2, 1]


async def test_a_change_is_written_once_it_settled_and_a_clean_stop_waits_for_nothing(tmp_path):
    settled = asyncio.Event()
    kept = Kept(tmp_path, settle=settled.wait)
    async with kept.running():
        kept.change()
        for _ in range(100):
            await asyncio.sleep(0)
        assert kept.takes == 0
        settled.set()
        await kept.reaches(1)
        settled.clear()
        kept.change()
    assert kept.on_disk()[0].revision == 2


async def test_after_the_last_write_a_change_is_nobodys_error(tmp_path):
    kept = Kept(tmp_path)
    await kept.writer.finish(5)
    kept.change()
    # What `run` does until its owner ends it.
    await kept.writer._save()
    assert kept.files.writes == 0


async def test_a_full_disk_is_told_and_tried_again_while_the_older_file_stays(tmp_path, caplog):
    async with Kept(tmp_path).running() as kept:
        kept.change()
        await kept.reaches(1)
        kept.files.full = True
        kept.change()
        failures = "tenantry_last_known_good_failures_total"
        await until(lambda: kept.registry.get_sample_value(failures) == 2)
        assert "LAST KNOWN GOOD NOT WRITTEN: errno 28" in caplog.text
        assert [header.revision for header in kept.on_disk()] == [1]
        kept.files.full = False
        await kept.reaches(2)


async def test_a_disk_that_hangs_holds_up_neither_the_loop_nor_a_clean_stop(tmp_path, caplog):
    kept = Kept(tmp_path)
    kept.files.free.clear()
    kept.change()
    await asyncio.wait_for(kept.writer.finish(0.05), PATIENCE_SECONDS)
    assert "not written within" in caplog.text
    kept.files.free.set()


async def test_what_nobody_confirmed_since_is_not_made_to_look_newer(tmp_path, monkeypatch):
    monkeypatch.setattr(writer_module, "REFRESH_SECONDS", 0.01)
    async with Kept(tmp_path, every_seconds=0.01).running() as kept:
        kept.change()
        await kept.reaches(1)
        await asyncio.sleep(0.1)
        assert kept.files.writes == 1
        kept.current_ms += 5_000
        await until(lambda: kept.on_disk()[0].written_unix_ms == kept.current_ms)
        assert kept.files.writes == 2


async def test_a_clean_stop_in_the_middle_of_settling_writes_once(tmp_path):
    kept = Kept(tmp_path)
    kept.files.free.clear()
    async with kept.running():
        kept.change()
        stopping = asyncio.create_task(kept.writer.finish(5))
        await until(lambda: kept.files.writes)
        # `run` needs a few turns of the loop to settle, for no time at all, and must not take the same change.
        for _ in range(100):
            await asyncio.sleep(0)
        assert kept.takes == 1
        kept.files.free.set()
        await stopping
    assert [header.revision for header in kept.on_disk()] == [1]
    assert kept.files.writes == 1


async def test_nothing_to_write_is_not_written(tmp_path):
    kept = Kept(tmp_path)
    await kept.writer.finish(5)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["tenantry_last_known_good_age_seconds"])
def test_the_files_age_is_shown(tmp_path, name):
    value = Kept(tmp_path).registry.get_sample_value(name)
    assert value is not None
    assert value > 1.7e9
