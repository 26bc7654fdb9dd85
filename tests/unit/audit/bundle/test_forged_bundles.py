"""Bundles made by a holder of every signing key are reported as damaged, and never raise an exception."""

from __future__ import annotations

import json

import pytest
import rfc8785

from services.audit.bundle.files import CHECKPOINT, MANIFEST, README, RECORDS, record_line
from services.audit.bundle.manifest import Manifest, Window
from services.audit.bundle.verify import verify_bundle
from services.audit.proofs.entry import EntryKind, name_digest
from services.audit.proofs.merkle import RangeProof
from tests.unit.audit.bundle import forgery
from tests.unit.audit.bundle.forgery import (
    DEK_ID,
    a_log,
    changed,
    damages,
    edited,
    manifest_signer,
    pinned,
    put,
    record_id,
    sealed,
    shown_of,
    write,
)

LOG = a_log("one", "two", "two!")


def resigned(folder, change) -> list[str]:
    """What a verifier says of a bundle whose manifest is changed as JSON and signed again."""
    write(folder, LOG)
    document = json.loads((folder / MANIFEST).read_bytes())
    change(document)
    put(folder, {}, rfc8785.dumps(document) + b"\n", manifest_signer())
    return damages(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"files": 5},
        {"files": [RECORDS, CHECKPOINT, README]},
        {"files": {}},
        {"filters": None},
        {"filters": ["start_ns"]},
        {"filters": {"tenant": "1"}},
        {"filters": {"start_ns": 1}},
        {"filters": {"start_ns": "01"}},
        {"filters": {"start_ns": "-1"}},
        {"counts": []},
        {"counts": {"admit": 1}},
        {"counts": {"admit": True}},
        {"counts": {"admit": -1}},
        {"size": 1},
        {"size": "5"},
        {"size": True},
        {"size": 5.5},
        {"root": "00" * 32},
        {"root": "00" * 31},
        {"first_index": 1},
        {"first_index": False},
        {"first_index": -1},
        {"end_index": 6},
        {"end_index": 2**53 - 1},
        {"proof": {}},
        {"proof": {"left": [], "right": ["00" * 32]}},
        {"proof": {"left": ["00" * 32], "right": []}},
        {"proof": {"left": [], "right": [], "more": []}},
        {"sections": ["prompt", "meta"]},
        {"sections": ["meta", "meta"]},
        {"sections": ["all"]},
        {"sections": "meta"},
        {"sections": None},
        {"shredded": ["00"]},
        {"shredded": ["ff" * 16, "00" * 16]},
        {"shredded": ["00" * 16, "00" * 16]},
        {"shredded": [["00" * 16]]},
        {"origin": "tenantry/audit/" + "0" * 32},
        {"format": 1},
        {"created_ns": 1},
        {"tenant_uid": ["a"]},
        {"comment": "all is well"},
    ],
    ids=str,
)
def test_a_signed_manifest_that_says_something_else_is_named(tmp_path, change):
    found = resigned(tmp_path / "b", lambda document: document.update(change))
    assert any(one.startswith("manifest.json: ") for one in found), found


@pytest.mark.parametrize(
    "missing", sorted(json.loads(Manifest("a", "o", 0, b"0" * 32, 0, 0, 1, {}, {}).encode()))
)
def test_a_signed_manifest_that_leaves_something_out_is_named(tmp_path, missing):
    found = resigned(tmp_path / "b", lambda document: document.pop(missing))
    assert "manifest.json: is not a canonical manifest of this format" in found


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"5", b"{}", b"{", b"[" * 100_000, b"\xff", b"null", b'{"a":1e999}']
)
def test_any_manifest_is_a_finding_and_never_an_exception(tmp_path, data):
    write(tmp_path / "b", LOG)
    put(tmp_path / "b", {}, data, manifest_signer())
    assert "manifest.json: is not a canonical manifest of this format" in damages(tmp_path / "b")


@pytest.mark.parametrize(
    ("part", "proof"),
    [
        ((0, 5), RangeProof((), (b"0" * 32,))),
        ((0, 4), RangeProof()),
        ((2, 5), RangeProof()),
        ((2, 5), RangeProof((b"0" * 32, b"0" * 32), ())),
        ((2, 5), RangeProof((b"0" * 32,), ())),
        ((0, 4), RangeProof((), (b"0" * 32,))),
        ((2, 2), RangeProof()),
    ],
)
def test_a_range_that_is_not_proven_is_named(tmp_path, part, proof):
    window = Window(100 * part[0] + 1, 100 * part[1] - 100)
    folder = write(tmp_path / "b", LOG, part=part, change=changed(proof=proof, window=window))
    found = damages(folder)
    whole = "records.jsonl: does not hash to the checkpoint's root"
    assert whole in found or any(one.startswith("manifest.json: ") for one in found), found


def test_content_beyond_the_window_or_of_a_destroyed_key_must_not_be_shown(tmp_path):
    for change in (changed(window=Window(300, 400)), changed(shredded=(DEK_ID,))):
        folder = write(tmp_path / "b", LOG, change=change, edit=edited(2, meta=shown_of(LOG[2], "meta")))
        expected = "records.jsonl: line 3 shows its meta, though the manifest says it is not shown"
        assert expected in damages(folder)


NO_ADMIT = "records.jsonl: holds an outcome without its admit before it, and no gap accounts for one"


@pytest.mark.parametrize(
    ("names", "open_admits", "unmatched"),
    [
        (("one!", "one"), 1, 1),
        (("one", "one!"), 0, 0),
        (("two!",), 0, 1),
        (("one", "two"), 2, 0),
    ],
)
def test_an_outcome_counts_only_behind_its_admit(tmp_path, names, open_admits, unmatched):
    log = a_log(*names)
    report = verify_bundle(write(tmp_path / "b", log), pinned())
    assert [str(damage) for damage in report.damages] == ([NO_ADMIT] if unmatched else [])
    counts = report.counts
    assert (counts["open"], counts["unmatched"]) == (open_admits, unmatched)
    assert counts.get("admit", 0) + unmatched == counts.get("outcome", 0) + open_admits
    lie = changed(counts={**counts, "open": open_admits + 1})
    assert "manifest.json: states other counts than the records have" in damages(
        write(tmp_path / "b", log, change=lie)
    )


def test_an_admit_has_one_outcome(tmp_path):
    log = a_log("one", "one!")
    log.append(sealed(4, EntryKind.OUTCOME, "again", admit_record_id=record_id("one")))
    assert damages(write(tmp_path / "b", log)) == [NO_ADMIT]


def test_a_gap_tells_of_admits_that_were_dropped(tmp_path):
    log = a_log("two!")
    log.append(sealed(3, EntryKind.GAP, "gap"))
    report = verify_bundle(write(tmp_path / "b", log), pinned())
    assert report.good, report.damages
    assert report.counts["unmatched"] == 1


def test_a_part_may_hold_outcomes_of_admits_before_it(tmp_path):
    window = Window(300, 10_000)
    folder = write(tmp_path / "b", a_log("one", "two", "one!"), part=(2, 5), change=changed(window=window))
    assert damages(folder) == []
    folder = write(
        tmp_path / "b", a_log("one", "two", "one!"), part=(3, 5), change=changed(window=Window(301))
    )
    report = verify_bundle(folder, pinned())
    assert report.good, report.damages
    assert report.counts["unmatched"] == 1


@pytest.mark.parametrize(
    "spell", [str.upper, lambda text: text[:2] + " " + text[2:]], ids=["capitals", "a space"]
)
@pytest.mark.parametrize("where", ["entry", "salt"])
def test_hex_has_one_spelling(tmp_path, spell, where):
    line = json.loads(record_line(LOG[2]))
    if where == "entry":
        edit = edited(2, entry=spell(line["entry"]))
    else:
        edit = edited(2, meta={**line["meta"], "salt": spell(line["meta"]["salt"])})
    folder = write(tmp_path / "b", LOG, edit=edit)
    assert "records.jsonl: line 3 is not spelled in lowercase hex" in damages(folder)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b"5",
        b"{}",
        b'"entry"',
        b'{"entry":5}',
        b"[" * 100_000,
        b"\xff",
        b'{"entry":""}',
        b"null",
        b"NaN",
    ],
)
def test_any_line_of_records_is_a_finding_and_never_an_exception(tmp_path, line):
    folder = write(tmp_path / "b", LOG, edit=lambda lines: [line + b"\n", *lines[1:]])
    assert any(one.startswith("records.jsonl: line 1 ") for one in damages(folder))


@pytest.mark.parametrize("size", ["9" * 5000, "-1", "05", "٣", "1e3"])
def test_any_size_in_a_checkpoint_is_a_finding_and_never_an_exception(tmp_path, size):
    folder = write(tmp_path / "b", LOG)
    text = (folder / CHECKPOINT).read_text().partition("\n\n")[0] + "\n"
    origin, _, root = text.splitlines()
    (folder / CHECKPOINT).write_bytes(forgery.log_signer().sign(f"{origin}\n{size}\n{root}\n"))
    assert any(one.startswith("checkpoint: ") for one in damages(folder))


def test_a_tenants_name_is_bound_by_its_whole_digest():
    assert len({name_digest(name) for name in ("a", "b", "a\x00", "A")}) == 4
