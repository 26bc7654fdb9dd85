"""Logs of processes that run for long: the newest lines are there, in order, and the disk is not filled."""

from __future__ import annotations

import pytest

from services.local import log_file
from services.local.log_file import LogFile, older
from tests.fakes.mutants import changed

LINES = [b"line %04d\n" % number for number in range(1_000)]
MAX_BYTES = 1_000


@pytest.fixture
def path(tmp_path):
    return tmp_path / "envoy.log"


def kept(path) -> bytes:
    return b"".join(file.read_bytes() for file in (older(path), path) if file.exists())


def write(path, lines, module=log_file) -> list[str]:
    complaints: list[str] = []
    with module.LogFile(path, complaints.append, MAX_BYTES) as file:
        for line in lines:
            file.write(line)
    return complaints


def bounded(path, module) -> bool:
    write(path, LINES, module)
    size: int = sum(file.stat().st_size for file in path.parent.iterdir())
    return size <= 2 * (MAX_BYTES + len(LINES[0]))


def test_the_newest_lines_are_kept_in_order_and_two_files_hold_them(path):
    assert bounded(path, log_file)
    assert LINES[-1] in kept(path)
    assert b"".join(LINES).endswith(kept(path))
    assert len(kept(path)) >= MAX_BYTES


def test_that_test_notices_a_log_without_an_end(path):
    assert not bounded(path, changed(log_file, "log-has-an-end", "full = False"))


def test_a_later_run_goes_on_where_the_one_before_stopped(path):
    for line in LINES[:50]:
        assert write(path, [line]) == []
    assert kept(path) == b"".join(LINES[:50])
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_disk_that_takes_no_lines_is_told_once_and_costs_no_process(path):
    path.mkdir()
    complaints = write(path, LINES[:3])
    assert complaints == [f"{path} takes no lines: Is a directory"]


def test_a_full_file_that_cannot_be_moved_goes_on_taking_lines(path):
    (older(path) / "in the way").mkdir(parents=True)
    complaints = write(path, LINES[:300])
    assert path.read_bytes() == b"".join(LINES[:300])
    assert complaints == [f"{path} is full and goes on growing: Is a directory"]


def test_a_log_nobody_writes_to_is_not_made(path):
    with LogFile(path, print):
        pass
    assert not path.exists()
