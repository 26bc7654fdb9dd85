"""After a crash at any moment a file has its old bytes or its new ones; after a return, the new ones for good."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from services.common import durable_files
from services.common.durable_files import SyncFailedError
from tests.fakes.mutants import replaced, without
from tests.fakes.power_failures import PowerFailureError, failing_call, recorded

OLD, NEW = b"old bytes", b"new bytes, more of them"


def lost(module, folder, write) -> set[bytes | None]:
    """What a file may hold, None for no file, that it must not when power fails at any moment of a write.

    Args:
        module: the durable files under test.
        folder: holds the old file, or nothing.
        write: of a module and a path; it writes NEW.
    """
    path = folder / "file"
    before = path.read_bytes() if path.exists() else None
    ever, last = recorded(folder, lambda: write(module, path)).outcomes()
    assert len(ever) > 2
    return ({found.get(path) for found in ever} - {before, NEW}) | (
        {found.get(path) for found in last} - {NEW}
    )


def replace(module, path):
    module.replace_file(path, NEW)


def create(module, path):
    module.create_file(path, NEW)


def read_or_create(module, path):
    assert module.read_or_create(path, lambda: NEW) == NEW


@pytest.mark.parametrize("is_there", [True, False])
def test_a_replacement_is_all_or_nothing_whenever_power_fails(tmp_path, is_there):
    if is_there:
        (tmp_path / "file").write_bytes(OLD)
    assert lost(durable_files, tmp_path, replace) == set()


@pytest.mark.parametrize("write", [create, read_or_create])
def test_a_creation_is_all_or_nothing_whenever_power_fails(tmp_path, write):
    assert lost(durable_files, tmp_path, write) == set()


def overwrite(files, mode=0o600):
    for path, data in files.items():
        descriptor = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, mode)
        os.write(descriptor, data)
        os.fsync(descriptor)
        os.close(descriptor)
        durable_files.sync_directory(path.parent)


def unsynced_bytes():
    return without(durable_files, "bytes-before-name")


def unsynced_names():
    return replaced(durable_files, "sync_directory", lambda _: None)


def early_return():
    return without(durable_files, "name-before-return")


def in_place():
    return replaced(durable_files, "replace_files", overwrite)


@pytest.mark.parametrize(
    ("mutant", "loses"),
    [(unsynced_bytes, b""), (unsynced_names, OLD), (early_return, OLD), (in_place, b"")],
)
def test_mutants_of_a_replacement_lose_bytes(tmp_path, mutant, loses):
    (tmp_path / "file").write_bytes(OLD)
    assert loses in lost(mutant(), tmp_path, replace)


@pytest.mark.parametrize(("mutant", "loses"), [(unsynced_bytes, b""), (unsynced_names, None)])
def test_mutants_of_a_creation_lose_bytes(tmp_path, mutant, loses):
    assert loses in lost(mutant(), tmp_path, create)


def test_several_files_are_each_old_or_new_for_one_sync_of_the_folder(tmp_path):
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_bytes(OLD)
    recorder = recorded(tmp_path, lambda: durable_files.replace_files(dict.fromkeys(paths, NEW)))
    ever, last = recorder.outcomes()
    assert {found[path] for found in ever for path in paths} == {OLD, NEW}
    assert {found[path] for found in last for path in paths} == {NEW}


CALLS_OF_A_REPLACEMENT = ["open", "write", "fsync", "replace", "open", "fsync"]
CALLS_OF_A_CREATION = ["open", "write", "fsync", "link", "unlink", "open", "fsync"]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    ("write", "place"),
    [
        *((replace, place) for place in range(len(CALLS_OF_A_REPLACEMENT))),
        *((create, place) for place in range(len(CALLS_OF_A_CREATION))),
    ],
)
def test_a_call_that_fails_leaves_one_whole_file_and_no_scratch(tmp_path, write, place, after):
    path = tmp_path / "file"
    if write is replace:
        path.write_bytes(OLD)
    with failing_call(place, PowerFailureError(), after=after) as calls, pytest.raises(PowerFailureError):
        write(durable_files, path)
    assert (
        calls[: place + 1]
        == (CALLS_OF_A_REPLACEMENT if write is replace else CALLS_OF_A_CREATION)[: place + 1]
    )
    assert path.exists() or write is create
    assert not path.exists() or path.read_bytes() in (OLD, NEW)
    # What a failing unlink leaves is whole, and unused.
    left = [one for one in tmp_path.iterdir() if one != path]
    assert left == [] or calls[place] in ("open", "unlink")


def test_a_failed_fsync_is_told_apart_and_not_tried_again(tmp_path):
    (tmp_path / "file").write_bytes(OLD)
    with failing_call(2, OSError(errno.EIO, "injected")) as calls, pytest.raises(SyncFailedError) as found:
        durable_files.replace_file(tmp_path / "file", NEW)
    assert found.value.errno == errno.EIO
    assert calls.count("fsync") == 1
    assert (tmp_path / "file").read_bytes() == OLD


def test_a_full_disk_leaves_the_old_bytes(tmp_path):
    (tmp_path / "file").write_bytes(OLD)
    with (
        failing_call(1, OSError(errno.ENOSPC, "injected")),
        pytest.raises(OSError, match="injected") as found,
    ):
        durable_files.replace_file(tmp_path / "file", NEW)
    assert not isinstance(found.value, SyncFailedError)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", OLD)]


def test_a_creation_replaces_nothing(tmp_path):
    (tmp_path / "file").write_bytes(OLD)
    with pytest.raises(FileExistsError):
        durable_files.create_file(tmp_path / "file", NEW)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", OLD)]


def test_a_creation_follows_no_link(tmp_path):
    (tmp_path / "file").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        durable_files.create_file(tmp_path / "file", NEW)
    assert not (tmp_path / "elsewhere").exists()


def test_of_two_that_create_a_file_at_once_both_get_the_firsts_bytes(tmp_path):
    path = tmp_path / "file"

    def meanwhile() -> bytes:
        durable_files.create_file(path, OLD)
        return NEW

    assert durable_files.read_or_create(path, meanwhile) == OLD
    assert durable_files.read_or_create(path, lambda: NEW) == OLD


def reads_what_is_there(module, path, monkeypatch):
    path.write_bytes(OLD)
    synced = []
    monkeypatch.setattr(module, "sync_directory", synced.append)
    assert module.read_or_create(path, lambda: NEW) == OLD
    return synced


def test_the_name_of_a_file_that_another_process_made_is_durable_before_it_is_relied_on(
    tmp_path, monkeypatch
):
    assert reads_what_is_there(durable_files, tmp_path / "file", monkeypatch) == [tmp_path]


def test_that_test_fails_where_only_a_lost_race_syncs_the_folder(tmp_path, monkeypatch):
    module = without(durable_files, "a-name-found-is-made-durable")
    assert reads_what_is_there(module, tmp_path / "file", monkeypatch) == []


def after_a_crash_behind_the_link(module, folder, call):
    """The names in a folder after the next call for a file whose creation had linked it, and not got further."""
    path = folder / "file [1]"
    path.write_bytes(OLD)
    (folder / f".{path.name}.{'a1' * 8}").hardlink_to(path)
    (folder / f".{path.name}.{'b2' * 8}").write_bytes(NEW)
    (folder / ".file [1].backup").hardlink_to(path)
    call(module, path)
    assert path.read_bytes() == OLD
    return {one.name for one in folder.iterdir()} - {
        path.name,
        f".{path.name}.{'b2' * 8}",
        ".file [1].backup",
    }


def create_again(module, path):
    with pytest.raises(FileExistsError):
        module.create_file(path, NEW)


def read_again(module, path):
    module.read_or_create(path, lambda: NEW)


@pytest.mark.parametrize("call", [create_again, read_again])
def test_the_second_name_that_a_crash_left_is_removed_by_the_next_call(tmp_path, call):
    assert after_a_crash_behind_the_link(durable_files, tmp_path, call) == set()


@pytest.mark.parametrize("call", [create_again, read_again])
def test_those_tests_fail_where_second_names_stay(tmp_path, call):
    module = without(durable_files, "second-names-are-removed")
    assert after_a_crash_behind_the_link(module, tmp_path, call) == {f".file [1].{'a1' * 8}"}


def test_without_hard_links_a_file_is_created_exclusively_all_the_same(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EPERM, "no hard links")

    monkeypatch.setattr(os, "link", refuse)
    durable_files.create_file(tmp_path / "file", NEW)
    with pytest.raises(FileExistsError):
        durable_files.create_file(tmp_path / "file", OLD)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", NEW)]


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o644])
def test_a_file_has_its_mode_from_the_first_moment(tmp_path, monkeypatch, mode):
    modes = []
    real = os.write

    def write(descriptor, data):
        modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    durable_files.replace_file(tmp_path / "replaced", NEW, mode)
    durable_files.create_file(tmp_path / "created", NEW, mode)
    assert modes == [mode, mode]
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {mode}


def test_missing_folders_are_made_private_and_durable(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(durable_files, "sync_directory", synced.append)
    durable_files.replace_file(tmp_path / "a" / "b" / "file", NEW)
    assert synced == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a", "a/b")} == {0o700}


def test_short_writes_are_continued(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:3]))
    durable_files.replace_file(tmp_path / "file", NEW)
    assert (tmp_path / "file").read_bytes() == NEW


def test_what_crashes_left_is_removed_and_nothing_else(tmp_path):
    (tmp_path / "file").write_bytes(OLD)
    (tmp_path / ".hidden.txt").write_bytes(OLD)
    (tmp_path / ".file.new").write_bytes(OLD)
    (tmp_path / f".file.{'a1' * 8}").write_bytes(NEW)
    durable_files.remove_scratch_files(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".file.new", ".hidden.txt", "file"]


def test_a_file_is_removed_for_good(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(OLD)
    ever, last = recorded(tmp_path, lambda: durable_files.remove_file(path)).outcomes()
    assert {found.get(path) for found in ever} == {OLD, None}
    assert {found.get(path) for found in last} == {None}
    durable_files.remove_file(path)
