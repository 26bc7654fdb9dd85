"""Bundles made by somebody who holds every signing key: named as damaged, and never an exception.

Each check stands alone against something, shown by a verifier without it that finds nothing wrong.
"""

from __future__ import annotations

import dataclasses
import json

import pytest
import rfc8785

from services.audit import bundle, bundle_records, verify
from services.audit.bundle_manifest import Manifest, Window
from services.audit.entry import EntryKind, name_digest
from services.audit.merkle import RangeProof, leaf_hash, root_of
from services.audit.verify import verify_bundle
from tests.fakes.mutants import mutant
from tests.unit.audit import forgery
from tests.unit.audit.forgery import DEK_ID, LOG_ID, a_log, manifest_signer, pinned, put, sealed, write

LOG = a_log("one", "two", "two!")


def damages(folder, keys=None) -> list[str]:
    return [str(damage) for damage in verify_bundle(folder, keys or pinned()).damages]


def changed(**fields):
    return lambda manifest: dataclasses.replace(manifest, **fields)


def with_entry(place: int, kind: EntryKind, name: str, **changes) -> list:
    """The log with one entry sealed anew; the tree is made over it."""
    entry = sealed(**{"index": place, "kind": kind, "name": name, **changes})
    return [*LOG[:place], entry, *LOG[place + 1 :]]


def edited(number: int, **names):
    """Lines of which one says something else."""

    def edit(lines: list[bytes]) -> list[bytes]:
        record = {**json.loads(lines[number]), **names}
        found = {name: value for name, value in record.items() if value is not None}
        return [*lines[:number], rfc8785.dumps(found) + b"\n", *lines[number + 1 :]]

    return edit


def another_root() -> bytes:
    return root_of([leaf_hash(opened.entry.encode()) for opened in a_log("one", "two", "three")])


def shown_of(number: int, name: str) -> dict:
    lines = [bundle.record_line(opened) for opened in LOG]
    return dict(json.loads(lines[number])[name])


def relabelled_checkpoint(folder):
    """A log under another id, whose checkpoint's signature line has the pinned name."""
    other = b"M" * 16
    write(folder, a_log("one", log_id=other), log_id=other)
    note = (folder / bundle.CHECKPOINT).read_text().partition("\n\n")[0] + "\n"
    (folder / bundle.CHECKPOINT).write_bytes(forgery.log_signer().sign(note))
    manifest = Manifest.parse((folder / bundle.MANIFEST).read_bytes())
    files = {one: (folder / one).read_bytes() for one in manifest.files}
    listed = {one: bundle.listed(data) for one, data in files.items()}
    put(folder, files, dataclasses.replace(manifest, files=listed).encode(), manifest_signer(other))
    return folder, dataclasses.replace(pinned(), manifest=pinned(other).manifest)


def relabelled_manifest(folder):
    """The same with the manifest's."""
    other = b"M" * 16
    write(folder, a_log("one", log_id=other), log_id=other)
    note = (folder / bundle.SIGNATURE).read_text().partition("\n\n")[0] + "\n"
    (folder / bundle.SIGNATURE).write_bytes(manifest_signer().sign(note))
    return folder, dataclasses.replace(pinned(), log=pinned(other).log)


def signed_another(folder):
    write(folder, LOG)
    (folder / bundle.SIGNATURE).write_bytes(bundle.sign_manifest(b"another", manifest_signer()))
    return folder


def rewritten(folder, name):
    write(folder, LOG)
    (folder / name).write_bytes(b"Trust me.\n")
    return folder


def unlisted(folder, name):
    write(folder, LOG)
    manifest = Manifest.parse((folder / bundle.MANIFEST).read_bytes())
    files = {one: listed for one, listed in manifest.files.items() if one != name}
    put(folder, {}, dataclasses.replace(manifest, files=files).encode(), manifest_signer())
    return folder


def relabelled(folder, log_id: bytes = LOG_ID):
    """Tenant b's log, told as a's: lines of signature say nothing that is signed, and one key signs for all logs."""
    other = b"M" * 16
    log = a_log("of b", tenant_uid="b", log_id=other)
    write(folder, log, log_id=other, tenant_uid="a")
    for name, signer in ((bundle.CHECKPOINT, forgery.log_signer()), (bundle.SIGNATURE, manifest_signer())):
        text = (folder / name).read_text().partition("\n\n")[0] + "\n"
        (folder / name).write_bytes(signer.sign(text))
    if log_id == LOG_ID:
        manifest = Manifest.parse((folder / bundle.MANIFEST).read_bytes())
        files = {one: (folder / one).read_bytes() for one in manifest.files}
        listed = {one: bundle.listed(data) for one, data in files.items()}
        put(folder, files, dataclasses.replace(manifest, files=listed).encode(), manifest_signer())
    return folder


def test_the_holder_of_the_manifest_key_cannot_pass_one_tenants_log_off_as_anothers(tmp_path):
    found = damages(relabelled(tmp_path / "b"))
    assert "checkpoint: is of another log than the pinned key" in found
    assert "manifest.json: is of another log than the pinned key" in found
    assert "records.jsonl: entry 1 opens the log of another tenant" in found


RECORDS_CHECKS = {
    "the log's id": (
        lambda folder: write(folder, with_entry(3, EntryKind.ADMIT, "x", log_id=b"M" * 16)),
        "self._log_id and header.log_id.hex() != self._log_id",
        "records.jsonl: entry 3 belongs to another log",
    ),
    "time": (
        lambda folder: write(folder, with_entry(3, EntryKind.ADMIT, "two", time_ns=150)),
        "header.time_ns < self._last_time_ns",
        "records.jsonl: entry 3 goes back in time",
    ),
    "the index": (
        lambda folder: write(folder, with_entry(3, EntryKind.ADMIT, "two", index=4, counter=3)),
        "header.index != self._first_index + self.lines - 1",
        "records.jsonl: line 4 holds entry 4: entries are missing, added or moved",
    ),
    "unique record ids": (
        lambda folder: write(folder, with_entry(3, EntryKind.REFUSED, "one")),
        "header.record_id in self._record_ids",
        "records.jsonl: entry 3 has the record id of one before it",
    ),
    "counters": (
        lambda folder: write(folder, with_entry(3, EntryKind.ADMIT, "two", counter=2)),
        "not self._follows_its_key(header)",
        "records.jsonl: entry 3 does not follow the one before it under its data key",
    ),
    "the log's opening": (
        lambda folder: write(folder, with_entry(3, EntryKind.LOG_OPENED, "two")),
        "(header.kind is EntryKind.LOG_OPENED) is not (header.index == 1)",
        "records.jsonl: entry 3 opens the log where it must not, or does not where it must",
    ),
    "the tenant": (
        lambda folder: write(folder, a_log("one", tenant_uid="b")),
        "header.key_digest != name_digest(self._manifest.tenant_uid)",
        "records.jsonl: entry 1 opens the log of another tenant",
    ),
    "what is spelled": (
        lambda folder: write(folder, LOG, edit=lambda lines: [*lines[:2], b" " + lines[2], *lines[3:]]),
        "canonical != line",
        "records.jsonl: line 3 is not canonical JSON of the known names",
    ),
    "numbers that are numbers": (
        lambda folder: write(folder, LOG, edit=edited(1, index=True)),
        'type(record["index"]) is not int',
        "records.jsonl: line 2 shows another index, kind or time than its entry",
    ),
    "what is left out": (
        lambda folder: write(folder, LOG, edit=edited(2, prompt=None)),
        "due and self._manifest is not None",
        "records.jsonl: line 3 leaves out its prompt, though the manifest says it is shown",
    ),
    "what is shown": (
        lambda folder: write(
            folder, LOG, change=changed(sections=("meta",)), edit=edited(2, prompt=shown_of(2, "prompt"))
        ),
        "not due",
        "records.jsonl: line 3 shows its prompt, though the manifest says it is not shown",
    ),
    "another content": (
        lambda folder: write(
            folder, LOG, edit=edited(2, prompt={**shown_of(2, "prompt"), "payload": {"text": "no"}})
        ),
        "section.commitment() != commitment",
        "records.jsonl: line 3 shows another prompt than the entry committed to",
    ),
    "the neighbour before": (
        lambda folder: write(folder, LOG, part=(2, 5), change=changed(window=Window(200, None))),
        "manifest.first_index > 0 and not manifest.window.begins_after(self._first_time_ns)",
        "records.jsonl: does not begin with an entry from before the window",
    ),
    "the neighbour after": (
        lambda folder: write(folder, LOG, part=(0, 4), change=changed(window=Window(None, 301))),
        "manifest.end_index < manifest.size and not manifest.window.ended_by(self._last_time_ns)",
        "records.jsonl: does not end with an entry from after the window",
    ),
}


VERIFY_CHECKS = {
    "the root": (
        lambda folder: write(folder, LOG, root=another_root()),
        "check.frontier.root() != checkpoint.root",
        "records.jsonl: does not hash to the checkpoint's root",
    ),
    "the size": (
        lambda folder: write(folder, LOG, part=(0, 4), change=changed(end_index=5)),
        "held != end - first",
        "records.jsonl: holds 4 entries where the manifest says 5",
    ),
    "counts": (
        lambda folder: write(folder, LOG, change=changed(counts={"admit": 2})),
        "manifest.counts != check.tally.counts()",
        "manifest.json: states other counts than the records have",
    ),
    "the checkpoint's log": (
        relabelled_checkpoint,
        "pinned.key.name != checkpoint.origin",
        "checkpoint: is of another log than the pinned key",
    ),
    "the manifest's log": (
        relabelled_manifest,
        "pinned.key.name != bundle.manifest_key_name(manifest.origin)",
        "manifest.json: is of another log than the pinned key",
    ),
    "what is signed": (
        signed_another,
        "text != bundle.manifest_note_text(data)",
        "manifest.json: is not what manifest.sig signs",
    ),
    "what is listed": (
        lambda folder: rewritten(folder, bundle.README),
        "manifest.files.get(name, listed) != listed",
        "README.txt: is not the file the manifest lists",
    ),
    "that all is listed": (
        lambda folder: unlisted(folder, bundle.README),
        "set(manifest.files) != set(_LISTED)",
        "manifest.json: lists other files than a bundle has",
    ),
    "one log in both": (
        lambda folder: write(folder, LOG, change=changed(root=another_root())),
        "stated != (checkpoint.origin, checkpoint.size, checkpoint.root)",
        "manifest.json: states another log, size or root than the checkpoint",
    ),
}


def forged(make, tmp_path):
    """The bundle, and the keys that its verifier has pinned."""
    made = make(tmp_path / "bundle")
    return made if isinstance(made, tuple) else (made, pinned())


@pytest.mark.parametrize("check", [*RECORDS_CHECKS, *VERIFY_CHECKS])
def test_each_check_names_what_only_it_sees(tmp_path, check):
    make, _, expected = {**RECORDS_CHECKS, **VERIFY_CHECKS}[check]
    folder, keys = forged(make, tmp_path)
    assert expected in damages(folder, keys)


@pytest.mark.parametrize("check", RECORDS_CHECKS)
def test_mutant_without_a_check_of_records_finds_nothing(tmp_path, monkeypatch, check):
    make, condition, _ = RECORDS_CHECKS[check]
    folder, keys = forged(make, tmp_path)
    monkeypatch.setattr(verify, "RecordCheck", mutant(bundle_records, condition, "False").RecordCheck)
    assert damages(folder, keys) == []


@pytest.mark.parametrize("check", VERIFY_CHECKS)
def test_mutant_without_a_check_of_the_whole_finds_nothing(tmp_path, check):
    make, condition, _ = VERIFY_CHECKS[check]
    folder, keys = forged(make, tmp_path)
    found = mutant(verify, condition, "False").verify_bundle(folder, keys).damages
    assert [str(damage) for damage in found] == []


def resigned(folder, change) -> list[str]:
    """What a verifier says of a bundle whose manifest is changed as JSON and signed again."""
    write(folder, LOG)
    document = json.loads((folder / bundle.MANIFEST).read_bytes())
    change(document)
    put(folder, {}, rfc8785.dumps(document) + b"\n", manifest_signer())
    return damages(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"files": 5},
        {"files": [bundle.RECORDS, bundle.CHECKPOINT, bundle.README]},
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
        folder = write(tmp_path / "b", LOG, change=change, edit=edited(2, meta=shown_of(2, "meta")))
        expected = "records.jsonl: line 3 shows its meta, though the manifest says it is not shown"
        assert expected in damages(folder)


@pytest.mark.parametrize(
    ("names", "counts"),
    [
        (("one!", "one"), {"open": 1, "unmatched": 1}),
        (("one", "one!"), {"open": 0, "unmatched": 0}),
        (("two!",), {"open": 0, "unmatched": 1}),
        (("one", "two"), {"open": 2, "unmatched": 0}),
    ],
)
def test_an_outcome_counts_only_behind_its_admit(tmp_path, names, counts):
    report = verify_bundle(write(tmp_path / "b", a_log(*names)), pinned())
    assert report.good
    assert {name: report.counts[name] for name in counts} == counts
    made = report.counts
    assert made.get("admit", 0) + made["unmatched"] == made.get("outcome", 0) + made["open"]
    lie = changed(counts={**made, "open": 0, "unmatched": 0})
    found = damages(write(tmp_path / "b", a_log(*names), change=lie))
    assert bool(found) is (made["open"] + made["unmatched"] > 0)


@pytest.mark.parametrize(
    "spell", [str.upper, lambda text: text[:2] + " " + text[2:]], ids=["capitals", "a space"]
)
@pytest.mark.parametrize("where", ["entry", "salt"])
def test_hex_has_one_spelling(tmp_path, spell, where):
    line = json.loads(bundle.record_line(LOG[2]))
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
    text = (folder / bundle.CHECKPOINT).read_text().partition("\n\n")[0] + "\n"
    origin, _, root = text.splitlines()
    (folder / bundle.CHECKPOINT).write_bytes(forgery.log_signer().sign(f"{origin}\n{size}\n{root}\n"))
    assert any(one.startswith("checkpoint: ") for one in damages(folder))


def test_a_tenants_name_is_bound_by_its_whole_digest():
    assert len({name_digest(name) for name in ("a", "b", "a\x00", "A")}) == 4
