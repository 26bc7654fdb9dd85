"""The two generations: after a failure between any two steps of a save, one of them can be read."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from services.common.known_good import generations as real_generations
from services.common.known_good.generations import Generations, load_key
from services.common.known_good.sealed_file import DamagedError, Expected, Header, Kind
from tests.fakes.mutants import changed, replaced
from tests.fakes.power_failures import PowerFailureError, failing_call, recorded, restore

KEY = bytes(range(32))
NOW = 1_800_000_000.0
HEADER = Header(Kind.ROUTER, "", "router-1", 1, int(NOW * 1000))
EXPECTED = Expected(Kind.ROUTER, "router-1", 86_400.0)


def generations(folder, module=real_generations):
    return module.Generations(folder, "known-good", KEY)


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


def after_power_failures(folder, files, revision) -> tuple[list[list[int]], list[list[int]]]:
    """The revisions that can be read when power fails at any moment of a save, and when it fails right after it."""
    found = []
    for outcomes in recorded(folder, lambda: save(files, revision)).outcomes():
        readable = []
        for outcome in outcomes:
            restore(folder, outcome)
            readable.append(revisions(generations(folder)))
        found.append(readable)
    return found[0], found[1]


@pytest.mark.parametrize("is_new_process", [True, False])
@pytest.mark.parametrize("before", range(4))
def test_power_that_fails_at_any_moment_leaves_a_generation(tmp_path, before, is_new_process):
    files = generations(tmp_path)
    for revision in range(1, before + 1):
        save(files, revision)
    if is_new_process:
        files = generations(tmp_path)
    ever, last = after_power_failures(tmp_path, files, before + 1)
    assert {tuple(found[:1]) for found in ever} == {(before,) if before else (), (before + 1,)}
    assert {tuple(found[:1]) for found in last} == {(before + 1,)}


@pytest.mark.parametrize("after", [True, False])
@pytest.mark.parametrize("is_new_process", [True, False])
@pytest.mark.parametrize("before", range(3))
def test_the_next_save_succeeds_over_whatever_a_failed_one_left(tmp_path, before, is_new_process, after):
    (tmp_path / "counted").mkdir()
    with failing_call(-1, PowerFailureError()) as calls:
        save(generations(tmp_path / "counted"), 1)
    for place in range(len(calls) + 1):
        folder = tmp_path / str(place)
        folder.mkdir()
        files = generations(folder)
        for revision in range(1, before + 1):
            save(files, revision)
        with failing_call(place, PowerFailureError(), after=after), suppress(PowerFailureError):
            save(files, before + 1)
        save(generations(folder) if is_new_process else files, before + 2)
        assert revisions(generations(folder))[0] == before + 2


def test_a_damaged_newest_never_takes_the_whole_ones_place(tmp_path):
    assert [] not in after_damage(tmp_path, real_generations)


def after_damage(folder, module) -> list[list[int]]:
    """What can be read when power fails at any moment of a save over a damaged newest generation."""
    files = generations(folder)
    save(files, 1)
    save(files, 2)
    damage(folder / "known-good.1")
    ever, _ = after_power_failures(folder, generations(folder, module), 3)
    return ever


def test_mutant_that_keeps_whatever_is_newest_loses_both(tmp_path):
    keeps_all = "if self.newest.exists(): self.newest.replace(self.older)"
    assert [] in after_damage(tmp_path, changed(real_generations, "damaged-is-not-kept", keeps_all))


def test_mutant_that_writes_in_place_loses_what_it_writes_over(tmp_path):
    broken = changed(real_generations, "beside-the-newest", 'self._scratch = folder / f"{name}.1"')
    save(generations(tmp_path), 1)
    with failing_call(1, PowerFailureError()) as calls, pytest.raises(PowerFailureError):
        save(generations(tmp_path, broken), 2)
    assert calls == ["open", "write"]
    assert revisions(generations(tmp_path)) == []


def test_mutant_that_does_not_sync_the_folder_loses_what_it_said_is_saved(tmp_path):
    save(generations(tmp_path), 1)
    broken = replaced(real_generations, "sync_directory", lambda _: None)
    _, last = after_power_failures(tmp_path, generations(tmp_path, broken), 2)
    assert [1] in last


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
