"""A damage is reported once, by its cause, with a true verdict. No damaged bundle is called good."""

from __future__ import annotations

import dataclasses
import random

import pytest

from services.audit.bundle.files import (
    CHECKPOINT,
    MANIFEST,
    README,
    RECORDS,
    SIGNATURE,
    listed_file,
    sign_manifest,
)
from services.audit.bundle.manifest import Manifest
from services.audit.bundle.report import DamageKind
from services.audit.bundle.verify import verify_bundle
from services.audit.proofs.merkle import leaf_hash, root_of
from tests.unit.audit.bundle.forgery import a_log, changed, manifest_signer, pinned, put, write

LOG = a_log("one", "one!", "two", "three", "three!")
CHANGED, INCIDENT, NO_KEYS, NOT_WHOLE = (
    "changed after the export",
    "contradicts itself",
    "do not vouch for this bundle",
    "is not whole",
)


@pytest.fixture
def whole(tmp_path):
    return write(tmp_path / "bundle", LOG)


def lines_of(folder) -> list[bytes]:
    lines: list[bytes] = (folder / RECORDS).read_bytes().splitlines(keepends=True)
    return lines


def verified(folder, keys=None):
    return verify_bundle(folder, keys or pinned())


def causes(report) -> list[str]:
    return [str(damage) for damage in report.causes()]


def test_a_good_bundle_has_no_causes_and_no_verdict(whole):
    report = verified(whole)
    assert (report.good, report.causes(), report.verdict(), report.ignored) == (True, [], "", [])


def test_one_changed_word_is_one_line_and_a_changed_file(whole):
    lines = lines_of(whole)
    (whole / RECORDS).write_bytes(b"".join(lines).replace(b'"text":"two"', b'"text":"ten"'))
    report = verified(whole)
    assert [str(damage) for damage in report.damages] == [
        "records.jsonl: line 5 shows another prompt than the entry committed to",
        "records.jsonl: is not the file the manifest lists",
    ]
    assert causes(report) == ["records.jsonl: line 5 shows another prompt than the entry committed to"]
    assert report.verdict().startswith("records.jsonl changed after the export")


def test_a_deleted_line_is_named_once(whole):
    lines = lines_of(whole)
    (whole / RECORDS).write_bytes(b"".join(lines[:3] + lines[4:]))
    report = verified(whole)
    assert causes(report) == ["records.jsonl: line 4 holds entry 4: entries are missing, added or moved"]
    assert [damage.kind for damage in report.damages].count(DamageKind.RECORD) == 1
    assert "records.jsonl: holds 6 entries where the manifest says 7" in map(str, report.damages)
    assert CHANGED in report.verdict()


def test_a_cut_end_is_named_by_the_number_of_entries(whole):
    (whole / RECORDS).write_bytes(b"".join(lines_of(whole)[:-2]))
    report = verified(whole)
    assert causes(report) == ["records.jsonl: holds 5 entries where the manifest says 7"]
    assert CHANGED in report.verdict()


def test_two_changed_files_are_two_causes(whole):
    (whole / RECORDS).write_bytes(b"".join(lines_of(whole)).replace(b'"text":"two"', b'"text":"ten"'))
    (whole / README).write_bytes(b"Trust me.\n")
    report = verified(whole)
    assert causes(report) == [
        "records.jsonl: line 5 shows another prompt than the entry committed to",
        "README.txt: is not the file the manifest lists",
    ]
    assert report.verdict().startswith("README.txt, records.jsonl changed after the export")


@pytest.mark.parametrize("name", [CHECKPOINT, MANIFEST, SIGNATURE])
def test_what_no_pinned_key_signed_is_the_cause_of_all_else(whole, name):
    path = whole / name
    path.write_bytes(path.read_bytes().replace(b"tenantry", b"tenantrY", 1))
    report = verified(whole)
    assert {damage.file for damage in report.causes()} == {name}
    assert NO_KEYS in report.verdict()


def test_another_logs_keys_are_said_not_a_change(whole):
    report = verified(whole, pinned(b"M" * 16))
    assert {damage.file for damage in report.causes()} == {CHECKPOINT, SIGNATURE}
    assert NO_KEYS in report.verdict()


@pytest.mark.parametrize("name", [RECORDS, CHECKPOINT, README, MANIFEST, SIGNATURE])
def test_a_missing_file_is_the_cause(whole, name):
    (whole / name).unlink()
    report = verified(whole)
    assert causes(report)[0] == f"{name}: is missing or not a plain file"
    assert NOT_WHOLE in report.verdict()


def test_a_bundle_that_was_wrong_when_it_was_made_is_an_incident(tmp_path):
    root = root_of([leaf_hash(opened.entry.encode()) for opened in a_log("other")])
    report = verified(write(tmp_path / "b", LOG, root=root))
    assert causes(report) == ["records.jsonl: does not hash to the checkpoint's root"]
    assert INCIDENT in report.verdict()
    report = verified(write(tmp_path / "b", LOG, change=changed(counts={"admit": 9})))
    assert causes(report) == ["manifest.json: states other counts than the records have"]
    assert INCIDENT in report.verdict()


def test_leftovers_of_file_managers_are_ignored_by_name_and_never_read(whole, monkeypatch):
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._records.jsonl"):
        (whole / name).write_bytes(b"\x00Bud1 anything")
        (whole / name).chmod(0)
    read = []
    real = type(whole).open
    monkeypatch.setattr(
        type(whole), "open", lambda path, *a, **k: read.append(path.name) or real(path, *a, **k)
    )
    report = verified(whole)
    assert report.good
    assert report.ignored == [".DS_Store", "._records.jsonl", "Thumbs.db", "desktop.ini"]
    assert set(read) == {RECORDS, CHECKPOINT, README, MANIFEST, SIGNATURE}


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db"])
@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: path.symlink_to("records.jsonl")])
def test_only_a_plain_file_is_a_leftover(whole, name, make):
    make(whole / name)
    assert causes(verified(whole)) == [f"{name}: does not belong to the bundle"]


def test_other_files_beside_are_damage_though_the_five_are_good(whole):
    (whole / "records (1).jsonl").write_bytes(b"")
    report = verified(whole)
    assert causes(report) == ["records (1).jsonl: does not belong to the bundle"]
    assert report.verdict().startswith("The five files of the bundle are good.")
    (whole / README).write_bytes(b"Trust me.\n")
    assert CHANGED in verified(whole).verdict()


def test_a_file_name_that_is_no_text_is_spelled(whole):
    (whole / "caf\udce9").write_bytes(b"")
    assert causes(verified(whole)) == ["caf\\udce9: does not belong to the bundle"]


def test_whatever_is_flipped_the_verdict_is_true_and_there_is_a_cause(tmp_path):
    folder = write(tmp_path / "b", LOG)
    chance = random.Random(7)
    signed = {
        name: (folder / name).read_bytes() for name in (RECORDS, CHECKPOINT, README, MANIFEST, SIGNATURE)
    }
    for _ in range(600):
        names = chance.sample(sorted(signed), chance.choice([1, 1, 2, 3]))
        for name in names:
            data = bytearray(signed[name])
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            (folder / name).write_bytes(data)
        report = verified(folder)
        assert not report.good
        assert report.causes()
        assert {damage.file for damage in report.causes()} <= set(names)
        vouched = not {MANIFEST, SIGNATURE, CHECKPOINT} & set(names)
        assert (CHANGED in report.verdict()) is vouched, (names, report.damages)
        assert (NO_KEYS in report.verdict()) is not vouched
        for name in names:
            (folder / name).write_bytes(signed[name])
    assert verified(folder).good


def test_the_holder_of_the_manifests_key_cannot_make_a_change_look_like_one_on_the_way(tmp_path):
    """Records changed and the manifest signed anew: that is an incident, not a bad copy."""
    folder = write(tmp_path / "b", LOG)
    manifest = Manifest.parse((folder / MANIFEST).read_bytes())
    records = (folder / RECORDS).read_bytes().replace(b'"text":"two"', b'"text":"ten"')
    files = {**manifest.files, RECORDS: listed_file(records)}
    put(folder, {RECORDS: records}, dataclasses.replace(manifest, files=files).encode(), manifest_signer())
    report = verified(folder)
    assert causes(report) == ["records.jsonl: line 5 shows another prompt than the entry committed to"]
    assert INCIDENT in report.verdict()
    (folder / SIGNATURE).write_bytes(sign_manifest(b"another", manifest_signer()))
    assert NO_KEYS in verified(folder).verdict()


def test_a_line_that_cannot_be_read_does_not_make_those_behind_it_wrong(whole):
    lines = lines_of(whole)
    (whole / RECORDS).write_bytes(b"".join([*lines[:3], b"{}\n", *lines[4:]]))
    report = verified(whole)
    wrong = [damage.what for damage in report.damages if damage.kind is DamageKind.RECORD]
    assert wrong == ["line 4 is not a canonical record"]
