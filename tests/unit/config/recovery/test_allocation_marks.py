"""Marks of numbers given out are on disk before etcd is written, whole, and refused when damaged."""

from __future__ import annotations

import asyncio

import pytest

from services.config.etcd import keys as etcd_keys
from services.config.recovery import allocation_marks as real_marks
from services.config.recovery.allocation_marks import Allocated, MarksDamagedError, read_marks, write_marks
from tests.fakes.memory_config_store import MemoryConfigStore
from tests.fakes.mutants import without

COUNTER = etcd_keys.ordinal_counter_key()


async def mark_when_etcd_hears_of_it(module, folder):
    store, seen = MemoryConfigStore(), []
    store.before_write = lambda: seen.append(read_marks(folder / module.FILE))
    await module.MarkedStore(store, folder).write([], {COUNTER: b"7"})
    return seen


async def test_an_ordinal_is_marked_before_it_is_written(tmp_path):
    assert await mark_when_etcd_hears_of_it(real_marks, tmp_path / "a") == [Allocated(7, 0)]
    late = without(real_marks, "ordinals-are-marked-first")
    assert await mark_when_etcd_hears_of_it(late, tmp_path / "b") == [None]


async def test_marks_only_rise_and_survive_a_restart(tmp_path):
    store = MemoryConfigStore()
    marked = real_marks.MarkedStore(store, tmp_path)
    await asyncio.gather(*(marked.write([], {COUNTER: b"%d" % n}) for n in (3, 9, 5)))
    again = real_marks.MarkedStore(store, tmp_path)
    await again.write([], {COUNTER: b"4", "/other": b""})
    assert read_marks(tmp_path / real_marks.FILE) == Allocated(9, 0)
    assert [path.name for path in tmp_path.iterdir()] == [real_marks.FILE]


async def test_a_disk_that_takes_no_mark_gives_no_ordinal_out(tmp_path, monkeypatch):
    def full(path, marks):
        raise OSError(28, "no space left on device")

    store = MemoryConfigStore()
    monkeypatch.setattr(real_marks, "write_marks", full)
    with pytest.raises(OSError, match="space"):
        await real_marks.MarkedStore(store, tmp_path).write([], {COUNTER: b"1"})
    assert await store.get(COUNTER) is None


async def test_other_writes_and_reads_pass_as_they_are(tmp_path):
    marked = real_marks.MarkedStore(MemoryConfigStore(), tmp_path)
    revision = await marked.write([], {"/a": b"1"})
    assert (await marked.get("/a")).mod_revision == revision
    assert list((await marked.list("/"))[0]) == ["/a"]
    assert read_marks(tmp_path / real_marks.FILE) is None


async def marks_after_a_start(module, folder):
    """etcd has an epoch that was raised in another config service's file; ours has an older one."""
    folder.mkdir()
    write_marks(folder / module.FILE, Allocated(9, 1))
    store = MemoryConfigStore()
    store.put({COUNTER: b"7", etcd_keys.epoch_key(): b"3"})
    await module.MarkedStore(store, folder).learn()
    return read_marks(folder / module.FILE)


async def test_what_etcd_says_is_marked_at_the_start(tmp_path):
    assert await marks_after_a_start(real_marks, tmp_path / "a") == Allocated(9, 3)
    deaf = without(real_marks, "epochs-are-marked")
    assert await marks_after_a_start(deaf, tmp_path / "b") == Allocated(9, 1)


async def test_an_epoch_is_marked_before_anybody_goes_by_it(tmp_path):
    store = MemoryConfigStore()
    marked = real_marks.MarkedStore(store, tmp_path)
    await marked.learn()
    store.put({etcd_keys.epoch_key(): b"5"})
    assert (await marked.get(etcd_keys.epoch_key())).value == b"5"
    assert read_marks(tmp_path / real_marks.FILE) == Allocated(0, 5)


async def test_learning_waits_for_etcd(tmp_path):
    store = MemoryConfigStore()
    store.put({etcd_keys.epoch_key(): b"5"})
    store.down = True
    learning = asyncio.create_task(real_marks.MarkedStore(store, tmp_path).learn())
    await asyncio.sleep(0)
    assert not learning.done()
    store.down = False
    await learning
    assert read_marks(tmp_path / real_marks.FILE) == Allocated(0, 5)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"format":2,"ordinal":1,"epoch":0}', '{"format":1,"ordinal":-1,"epoch":0}',
     '{"format":1,"ordinal":1,"epoch":256}', '{"format":1,"ordinal":"1","epoch":0}', '{"format":1,"ordinal":1}'],
)  # fmt: skip
def test_damaged_marks_are_refused_at_the_start(tmp_path, text):
    (tmp_path / real_marks.FILE).write_text(text)
    with pytest.raises(MarksDamagedError):
        real_marks.MarkedStore(MemoryConfigStore(), tmp_path)


def test_marks_are_private(tmp_path):
    write_marks(tmp_path / "new" / "marks", Allocated(1, 2))
    assert read_marks(tmp_path / "new" / "marks") == Allocated(1, 2)
    assert (tmp_path / "new" / "marks").stat().st_mode & 0o777 == 0o600
