"""No content makes the verifier run out of memory: it bounds what it reads and names at once."""

from __future__ import annotations

import pytest

from services.audit.bundle import record_check, verify
from services.audit.bundle.files import CHECKPOINT, MANIFEST, README, RECORDS, SIGNATURE
from tests.fakes.mutants import changed, without
from tests.unit.audit.bundle.forgery import a_log, pinned, write


def found(folder, module=verify):
    return [str(damage) for damage in module.verify_bundle(folder, pinned()).damages]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(record_check, "MAX_LINE_BYTES", 4096)
    monkeypatch.setattr(verify, "MAX_LINE_BYTES", 4096)
    monkeypatch.setattr(verify, "MAX_FILE_BYTES", 4096)
    monkeypatch.setattr(verify, "MAX_FINDINGS", 5)
    return write(tmp_path / "bundle", a_log("one", "two"))


class Watched:
    """A file that notes the longest piece that was read of it at once."""

    longest = 0

    def __init__(self, file):
        self._file = file

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def __iter__(self):
        raise AssertionError("a line is read whole")

    def read(self):
        return self._file.read()

    def readline(self, size):
        line = self._file.readline(size)
        Watched.longest = max(Watched.longest, len(line))
        return line


def test_a_bundle_within_the_bounds_is_good(folder):
    assert found(folder) == []


@pytest.mark.parametrize("end", [b"", b"\n", b"\n{}\n"])
def test_a_huge_line_is_named_and_never_held_whole(folder, monkeypatch, end):
    records = (folder / RECORDS).read_bytes()
    (folder / RECORDS).write_bytes(records + b"x" * 50_000 + end)
    real = type(folder).open
    monkeypatch.setattr(type(folder), "open", lambda path, *how, **more: Watched(real(path, *how, **more)))
    Watched.longest = 0
    damages = found(folder)
    number = records.count(b"\n") + 1
    assert f"{RECORDS}: line {number} is longer than 4096 bytes" in damages
    assert (f"{RECORDS}: does not end with a whole line" in damages) is (end == b"")
    assert (f"{RECORDS}: line {number + 1} is not a canonical record" in damages) is (end == b"\n{}\n")
    assert f"{RECORDS}: is not the file the manifest lists" in damages
    assert Watched.longest == 4097


@pytest.mark.parametrize("name", [CHECKPOINT, README, MANIFEST, SIGNATURE])
def test_a_huge_file_is_named_and_not_read(folder, name):
    (folder / name).write_bytes(b"x" * 4097)
    assert f"{name}: has more than 4096 bytes" in found(folder)
    assert len(verify.claimed_origins(folder)) == 1


def test_that_test_fails_where_files_of_any_size_are_read(folder):
    (folder / README).write_bytes(b"x" * 4097)
    broken = without(verify, "files-read-whole-are-bounded")
    assert not any("has more than" in damage for damage in found(folder, broken))


def lines_named(folder, module):
    with (folder / RECORDS).open("ab") as records:
        records.write(b"\n" * 1000)
    damages = found(folder, module)
    return sum(": line " in damage for damage in damages), [
        one for one in damages if "not checked further" in one
    ]


def test_the_damages_that_are_named_are_bounded(folder):
    assert lines_named(folder, verify) == (
        5,
        [f"{RECORDS}: is not checked further: 5 damages were found before"],
    )


def test_that_test_fails_where_every_damage_is_named(folder):
    broken = changed(verify, "findings-are-bounded", "check.line(line[:-1])")
    broken.MAX_FINDINGS = 5
    assert lines_named(folder, broken)[0] > 900
