"""A bundle of any part of a log verifies with the pinned keys, and a flip in any file is named."""

from __future__ import annotations

import dataclasses
import random
import shutil

import pytest

from services.audit.bundle.files import CHECKPOINT, MANIFEST, README, RECORDS, SIGNATURE
from services.audit.bundle.manifest import Window
from services.audit.bundle.pinned_keys import PinnedKey, PinnedKeys
from services.audit.bundle.verify import verify_bundle
from services.audit.proofs.entry import EntryKind
from services.audit.proofs.signed_note import NoteError
from tests.unit.audit.bundle.forgery import a_log, pinned, sealed, write

LOG = a_log("one", "one!", "two", "three", "three!")
PINNED = pinned()


@pytest.fixture
def whole(tmp_path):
    return write(tmp_path / "bundle", LOG)


def test_a_whole_bundle_verifies_and_counts(whole):
    report = verify_bundle(whole, pinned())
    assert report.good, report.damages
    assert report.counts == {
        "admit": 3,
        "dek_open": 1,
        "log_opened": 1,
        "outcome": 2,
        "open": 1,
        "unmatched": 0,
    }
    assert (report.first_index, report.end_index, report.size) == (0, 7, 7)


def named(folder, name, data) -> bool:
    """Whether a verifier that finds other bytes in a file names that file."""
    original = (folder / name).read_bytes()
    (folder / name).write_bytes(data)
    found = {damage.file for damage in verify_bundle(folder, PINNED).damages}
    (folder / name).write_bytes(original)
    return name in found


def test_every_flipped_byte_of_every_file_is_named(tmp_path):
    folder = write(tmp_path / "small", a_log("ü"))
    chance = random.Random(20)
    for path in sorted(folder.iterdir()):
        original = path.read_bytes()
        for place, byte in enumerate(original):
            for bit in chance.sample(range(8), 2):
                flipped = original[:place] + bytes([byte ^ 1 << bit]) + original[place + 1 :]
                assert named(folder, path.name, flipped), (path.name, place, bit)
    assert verify_bundle(folder, pinned()).good


def test_a_cut_or_lengthened_file_is_named(whole):
    for path in sorted(whole.iterdir()):
        data = path.read_bytes()
        for other in (b"", data[:-1], data + b"\n", data + data):
            assert named(whole, path.name, other), path.name


@pytest.mark.parametrize("edit", ["drop", "swap", "repeat", "cut"])
def test_other_tampering_with_records_is_named(whole, edit):
    lines = (whole / RECORDS).read_bytes().splitlines(keepends=True)
    changed = {
        "drop": lines[:1] + lines[2:],
        "swap": [lines[1], lines[0], *lines[2:]],
        "repeat": [*lines, lines[-1]],
        "cut": lines[:-1],
    }[edit]
    assert named(whole, RECORDS, b"".join(changed))


def test_nothing_but_the_five_plain_files_may_be_there(whole, tmp_path):
    for make in (
        lambda path: path.write_text("hello"),
        lambda path: path.mkdir(),
        lambda path: path.symlink_to(whole / README),
        lambda path: path.symlink_to(tmp_path / "nowhere"),
    ):
        copy = shutil.copytree(whole, tmp_path / "copy")
        make(copy / "more")
        assert [str(one) for one in verify_bundle(copy, pinned()).damages] == [
            "more: does not belong to the bundle"
        ]
        shutil.rmtree(copy)


@pytest.mark.parametrize("name", [RECORDS, CHECKPOINT, README, MANIFEST, SIGNATURE])
@pytest.mark.parametrize("instead", ["nothing", "folder", "link"])
def test_a_file_that_is_no_plain_file_is_named(whole, tmp_path, name, instead):
    (whole / name).rename(tmp_path / "elsewhere")
    if instead == "folder":
        (whole / name).mkdir()
    elif instead == "link":
        (whole / name).symlink_to(tmp_path / "elsewhere")
    assert f"{name}: is missing or not a plain file" in map(str, verify_bundle(whole, pinned()).damages)


def test_another_logs_keys_do_not_verify_it(whole):
    other = pinned(b"M" * 16)
    mixed = PinnedKeys(pinned().log, other.manifest)
    for keys in (other, mixed, PinnedKeys(other.log, pinned().manifest), PinnedKeys((), ())):
        assert not verify_bundle(whole, keys).good


def during(start_ns: int, end_ns: int):
    return lambda manifest: dataclasses.replace(manifest, window=Window(start_ns, end_ns))


@pytest.mark.parametrize("part", [(0, 4), (1, 4), (2, 5), (3, 7), (5, 7), (1, 7), (0, 7)])
def test_a_part_of_a_log_with_its_neighbours_verifies(tmp_path, part):
    """What a window's content needs: every entry in it, one before it, one after it, and hashes of the rest."""
    first, end = part
    start_ns = 100 * first + (1 if first else 0)
    end_ns = 100 * (end - 1) if end < len(LOG) else 10_000
    folder = write(tmp_path / "part", LOG, part=part, change=during(start_ns, end_ns))
    report = verify_bundle(folder, pinned())
    assert report.good, report.damages
    assert (report.first_index, report.end_index, report.size) == (first, end, 7)
    assert len((folder / RECORDS).read_bytes().splitlines()) == end - first


@pytest.mark.parametrize("size", range(2, 18))
def test_every_part_of_every_tree_is_proven(tmp_path, size):
    log = a_log(*(f"n{number}" for number in range(size - 2)))
    for first in range(size):
        for end in range(first + 1, size + 1):
            window = during(100 * first + 1 if first else 0, 100 * (end - 1) if end < size else 10_000)
            folder = write(tmp_path / "part", log, part=(first, end), change=window)
            assert verify_bundle(folder, pinned()).good, (first, end)


@pytest.mark.parametrize("sections", [(), ("meta",), ("meta", "answer"), ("prompt",)])
def test_a_reader_of_some_sections_gets_those_and_no_salt_of_others(tmp_path, sections):
    folder = write(
        tmp_path / "b", LOG, change=lambda manifest: dataclasses.replace(manifest, sections=sections)
    )
    report = verify_bundle(folder, pinned())
    assert report.good, report.damages
    assert report.sections == sections
    records = (folder / RECORDS).read_bytes()
    for name, opened in zip(("meta", "prompt"), LOG[2].sections, strict=False):
        assert (opened.salt.hex().encode() in records) is (name in sections)


def test_content_under_a_destroyed_key_is_not_there_and_the_proofs_hold(tmp_path):
    log = a_log("one", "two")
    log.append(sealed(4, EntryKind.DEK_OPEN, "", dek_id=b"E" * 16))
    log.append(sealed(5, EntryKind.ADMIT, "three", dek_id=b"E" * 16, counter=1))
    folder = write(
        tmp_path / "b", log, change=lambda manifest: dataclasses.replace(manifest, shredded=(b"D" * 16,))
    )
    report = verify_bundle(folder, pinned())
    assert report.good, report.damages
    assert report.shredded == (b"D" * 16,)
    records = (folder / RECORDS).read_text()
    assert '"text":"one"' not in records
    assert '"text":"three"' in records


def ranged(*ranges: str) -> PinnedKeys:
    """The log's key with ranges of sizes it may sign; the manifest's with none."""
    (key,) = pinned().log
    return PinnedKeys.parse([f"{key}{one}" for one in ranges], [str(pinned().manifest[0])])


@pytest.mark.parametrize(
    ("sizes", "good"),
    [
        ("", True),
        (" 1-", True),
        (" 7-7", True),
        (" 3-9", True),
        (" 0-6", False),
        (" 8-", False),
        (" 8-9", False),
    ],
)
def test_a_replaced_key_signs_for_its_range_of_sizes_only(whole, sizes, good):
    report = verify_bundle(whole, ranged(sizes))
    assert report.good is good
    assert good or [str(one) for one in report.damages] == ["checkpoint: the key may not sign for size 7"]
    (manifest_key,) = pinned().manifest
    keys = PinnedKeys.parse([str(pinned().log[0])], [f"{manifest_key}{sizes}"])
    assert verify_bundle(whole, keys).good is good


@pytest.mark.parametrize(
    "sizes", [" ", " 7", " 07-", " -7", " 7-x", " 0-", "  7-8", " 7-8 ", " ٣-", " " + "9" * 30 + "-"]
)
def test_ranges_have_one_spelling(sizes):
    (key,) = pinned().log
    assert PinnedKey.parse(f"{key} 7-9").last_size == 9
    with pytest.raises(NoteError):
        PinnedKey.parse(f"{key}{sizes}")
