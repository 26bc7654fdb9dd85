from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import time

import pytest

from triton_models.cpu_engine.verified_directory import (
    LockTimeoutError,
    UnexpectedBuildError,
    file_sha256,
    open_or_build,
)

EXPECTED = {
    "inner/one": hashlib.sha256(b"first").hexdigest(),
    "two": hashlib.sha256(b"second").hexdigest(),
}


def build(directory):
    (directory / "inner").mkdir()
    (directory / "inner" / "one").write_bytes(b"first")
    (directory / "two").write_bytes(b"second")


def build_slowly(directory):
    with (directory.parent / "builds").open("a") as log:
        log.write("built\n")
    time.sleep(0.3)  # so that the other process finds it being built
    build(directory)


def open_slowly(target):
    open_or_build(target, build_slowly, EXPECTED)


def hold_lock(target, holding):
    def hold(_):
        holding.set()
        time.sleep(30)

    open_or_build(target, hold, EXPECTED)


class Builder:
    def __init__(self):
        self.builds = 0

    def __call__(self, directory):
        self.builds += 1
        build(directory)


@pytest.fixture
def builder():
    return Builder()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "cache" / "model"


def test_what_is_built_once_is_opened_afterwards(builder, target):
    open_or_build(target, builder, EXPECTED)
    assert (target / "inner" / "one").read_bytes() == b"first"
    open_or_build(target, builder, EXPECTED)
    assert builder.builds == 1


@pytest.mark.parametrize("name", ["two", "inner/one"])
@pytest.mark.parametrize("change", ["flip", "truncate", "remove"])
def test_any_change_to_any_file_is_noticed_and_repaired(builder, target, name, change):
    open_or_build(target, builder, EXPECTED)
    path = target / name
    content = path.read_bytes()
    if change == "remove":
        path.unlink()
    else:
        path.write_bytes(content[:-1] + (b"" if change == "truncate" else bytes([content[-1] ^ 1])))
    open_or_build(target, builder, EXPECTED)
    assert builder.builds == 2
    assert path.read_bytes() == content


def add_a_file(target):
    (target / "inner" / "three").touch()


def link_out(target):
    (target / "two").rename(target.parent / "two")
    (target / "two").symlink_to(target.parent / "two")


def link_a_directory_out(target):
    (target / "inner").rename(target.parent / "inner")
    (target / "inner").symlink_to(target.parent / "inner")


def a_file_for_a_directory(target):
    shutil.rmtree(target)
    target.write_text("a file")


def a_pipe_for_a_file(target):
    (target / "two").unlink()
    os.mkfifo(target / "two")


def a_link_to_nothing(target):
    (target / "two").unlink()
    (target / "two").symlink_to("nothing")


def a_directory_for_a_file(target):
    (target / "two").unlink()
    (target / "two").mkdir()


@pytest.mark.parametrize(
    "change",
    [
        add_a_file,
        link_out,
        link_a_directory_out,
        a_file_for_a_directory,
        a_pipe_for_a_file,
        a_link_to_nothing,
        a_directory_for_a_file,
    ],
)
def test_anything_that_was_not_built_is_noticed_and_repaired(builder, target, change):
    open_or_build(target, builder, EXPECTED)
    change(target)
    open_or_build(target, builder, EXPECTED)
    assert builder.builds == 2
    assert sorted(str(path.relative_to(target)) for path in target.rglob("*")) == [
        "inner",
        "inner/one",
        "two",
    ]


def test_what_is_not_expected_is_not_kept_however_it_is_built(builder, target):
    """Nothing in the directory says what belongs there: a changed file with a changed list of files is no way in."""
    other = EXPECTED | {"two": hashlib.sha256(b"other").hexdigest()}
    for expected, named in (
        (other, "two"),
        (EXPECTED | {"three": "0" * 64}, "three"),
    ):
        with pytest.raises(UnexpectedBuildError, match=named):
            open_or_build(target, builder, expected)
        assert not target.exists()


def test_a_failed_build_leaves_nothing_and_a_killed_ones_remains_are_removed(builder, target):
    def fail(directory):
        build(directory)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        open_or_build(target, fail, EXPECTED)
    assert [path for path in target.parent.iterdir() if path.is_dir()] == []
    (target.parent / ".model.building-killed").mkdir()
    open_or_build(target, builder, EXPECTED)
    assert [path for path in target.parent.iterdir() if path.is_dir()] == [target]


def test_who_has_a_damaged_file_open_keeps_it(builder, target):
    open_or_build(target, builder, EXPECTED)
    with (target / "inner" / "one").open("rb") as reader:
        (target / "two").unlink()
        open_or_build(target, builder, EXPECTED)
        assert reader.read() == b"first"


def test_two_processes_build_once(target):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=open_slowly, args=(target,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0]
    assert (target.parent / "builds").read_text() == "built\n"


def test_waiting_for_another_process_has_a_deadline(builder, target):
    context = multiprocessing.get_context("spawn")
    holding = context.Event()
    process = context.Process(target=hold_lock, args=(target, holding))
    process.start()
    try:
        assert holding.wait(30)
        with pytest.raises(LockTimeoutError, match="held by another process"):
            open_or_build(target, builder, EXPECTED, lock_timeout_seconds=0.2)
    finally:
        process.kill()
        process.join()
    open_or_build(target, builder, EXPECTED)  # a dead process holds no lock


def test_progress_counts_every_byte(target, builder, tmp_path):
    path = tmp_path / "large"
    path.write_bytes(b"x" * (3 << 20))
    seen = []
    assert file_sha256(path, seen.append) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert seen == [1 << 20, 2 << 20, 3 << 20]
    open_or_build(target, builder, EXPECTED)
    verified = []
    open_or_build(target, builder, EXPECTED, on_verify=lambda *at: verified.append(at))
    assert verified[-1] == (11, 11)
