"""The two generations: whatever happens between two steps of a save, one of them can be read."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.known_good import generations as known_good_files
from services.common.known_good.generations import DiskOps, Generations, load_key
from services.common.known_good.sealed_file import DamagedError, Expected, Header, Kind
from tests.fakes.mutants import mutant

KEY = bytes(range(32))
NOW = 1_800_000_000.0
HEADER = Header(Kind.ROUTER, "", "router-1", 1, int(NOW * 1000))
EXPECTED = Expected(Kind.ROUTER, "router-1", 86_400.0)


class PowerFailureError(Exception):
    """Nothing after it happens."""


class FailingOps(DiskOps):
    """Lets power fail before, within or after the step of a number; `steps` counts them."""

    def __init__(self, fails_at: int = -1, when: str = "before") -> None:
        self.steps = 0
        self._fails_at, self._when = fails_at, when

    def _is_due(self) -> bool:
        self.steps += 1
        due = self.steps - 1 == self._fails_at
        if due and self._when == "before":
            raise PowerFailureError
        return due

    def write(self, path: Path, pieces: Iterable[bytes]) -> None:
        due, data = self._is_due(), b"".join(pieces)
        if due and self._when == "within":
            super().write(path, [data[: len(data) // 2]])
            raise PowerFailureError
        super().write(path, [data])
        self._fail_after(due)

    def rename(self, source: Path, target: Path) -> None:
        due = self._is_due()
        super().rename(source, target)
        self._fail_after(due)

    def sync_directory(self, folder: Path) -> None:
        due = self._is_due()
        super().sync_directory(folder)
        self._fail_after(due)

    def _fail_after(self, due: bool) -> None:
        if due:
            raise PowerFailureError


def generations(folder, ops=None, module=known_good_files):
    return module.Generations(folder, "known-good", KEY, ops)


def save(files, revision):
    files.save(replace(HEADER, revision=revision), [b"%d" % revision])


def revisions(files, now=NOW):
    return [known.header.revision for known in files.readable(EXPECTED, now)]


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_the_newest_two_are_kept_newest_first(tmp_path):
    files = generations(tmp_path)
    for revision in range(1, 5):
        save(files, revision)
    assert revisions(generations(tmp_path)) == [4, 3]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["known-good.1", "known-good.2"]
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_nothing_written_is_nothing_to_start_from(tmp_path, caplog):
    assert revisions(generations(tmp_path)) == []
    assert not caplog.records


def test_a_damaged_newest_is_named_and_the_older_one_is_used(tmp_path, caplog):
    files = generations(tmp_path)
    save(files, 1)
    save(files, 2)
    damage(tmp_path / "known-good.1")
    assert revisions(files) == [1]
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert f"{tmp_path}/known-good.1: its checksum does not match" in record.getMessage()


def test_with_both_damaged_there_is_nothing_to_start_from(tmp_path, caplog):
    files = generations(tmp_path)
    save(files, 1)
    save(files, 2)
    damage(tmp_path / "known-good.1")
    (tmp_path / "known-good.2").write_bytes(b"")
    assert revisions(files) == []
    assert len(caplog.records) == 2


def test_a_file_that_cannot_be_read_is_named_and_the_older_one_is_used(tmp_path, caplog):
    files = generations(tmp_path)
    save(files, 1)
    save(files, 2)
    (tmp_path / "known-good.1").unlink()
    (tmp_path / "known-good.1").mkdir()
    assert revisions(files) == [1]
    assert "errno" in caplog.text


STEPS_OF_A_SAVE = 4


@given(
    before=st.integers(0, 3),
    fails_at=st.integers(0, STEPS_OF_A_SAVE - 1),
    when=st.sampled_from(["before", "within", "after"]),
    is_new_process=st.booleans(),
)
def test_power_that_fails_at_any_step_leaves_a_generation(
    tmp_path_factory, before, fails_at, when, is_new_process
):
    folder = tmp_path_factory.mktemp("g")
    ops = FailingOps()
    files = generations(folder, ops)
    for revision in range(1, before + 1):
        save(files, revision)
    first_save_has_nothing_to_keep = before == 0
    failing = FailingOps(fails_at, when)
    if is_new_process:
        files = generations(folder, failing)
    else:
        files._ops = failing
    try:
        save(files, before + 1)
    except PowerFailureError:
        pass
    else:
        assert first_save_has_nothing_to_keep
        assert failing.steps == STEPS_OF_A_SAVE - 1
    found = revisions(generations(folder))
    assert found[:1] in ([before], [before + 1]) or (before == 0 and found == [])
    # And the next save succeeds over whatever was left, in the same process or in the next.
    for after in (files, generations(folder)):
        after._ops = DiskOps()
        save(after, before + 2)
        assert revisions(after)[0] == before + 2


def test_a_damaged_newest_never_takes_the_whole_ones_place(tmp_path):
    files = generations(tmp_path)
    save(files, 1)
    save(files, 2)
    damage(tmp_path / "known-good.1")
    with pytest.raises(PowerFailureError):
        save(generations(tmp_path, FailingOps(1)), 3)
    assert revisions(generations(tmp_path)) == [1]


def test_mutant_that_keeps_whatever_is_newest_loses_both(tmp_path):
    broken = mutant(known_good_files, "if keep:", "if self.newest.exists():")
    files = generations(tmp_path)
    save(files, 1)
    save(files, 2)
    damage(tmp_path / "known-good.1")
    with pytest.raises(PowerFailureError):
        save(generations(tmp_path, FailingOps(2), broken), 3)
    assert revisions(generations(tmp_path)) == []


def test_mutant_that_writes_in_place_loses_what_it_writes_over(tmp_path):
    broken = mutant(known_good_files, 'folder / f".{name}.new"', 'folder / f"{name}.1"')
    save(generations(tmp_path), 1)
    with pytest.raises(PowerFailureError):
        save(generations(tmp_path, FailingOps(0, "within"), broken), 2)
    assert revisions(generations(tmp_path)) == []


def test_a_scratch_file_that_is_a_link_is_not_followed(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("kept")
    (tmp_path / ".known-good.new").symlink_to(elsewhere)
    with pytest.raises(OSError, match="symbolic"):
        save(generations(tmp_path), 1)
    assert elsewhere.read_text() == "kept"


def test_a_key_file_is_made_once_and_only_its_owner_reads_it(tmp_path):
    path = tmp_path / "lkg.key"
    key = load_key(path)
    assert (load_key(path), len(key), path.stat().st_mode & 0o777) == (key, 32, 0o400)
    assert list(tmp_path.iterdir()) == [path]


def test_a_key_file_of_another_length_is_refused(tmp_path):
    (tmp_path / "lkg.key").write_bytes(b"short")
    with pytest.raises(DamagedError, match=r"lkg\.key: holds 5 bytes"):
        load_key(tmp_path / "lkg.key")


def test_another_process_key_opens_neither(tmp_path, caplog):
    save(generations(tmp_path), 1)
    assert list(Generations(tmp_path, "known-good", bytes(32)).readable(EXPECTED, NOW)) == []
    assert "sealed under another key" in caplog.text
