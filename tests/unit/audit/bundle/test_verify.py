"""Each check of the verifier stands alone against something: without it, that verifier finds nothing wrong.

The forger holds every signing key of the service, and makes all else of a bundle right.
"""

from __future__ import annotations

import dataclasses

import pytest

from services.audit.bundle import record_check, verify
from services.audit.bundle.files import (
    CHECKPOINT,
    MANIFEST,
    README,
    SIGNATURE,
    listed_file,
    sign_manifest,
)
from services.audit.bundle.manifest import Manifest, Window
from services.audit.proofs.entry import EntryKind
from services.audit.proofs.merkle import leaf_hash, root_of
from tests.fakes import mutants
from tests.unit.audit.bundle import forgery
from tests.unit.audit.bundle.forgery import (
    a_log,
    changed,
    damages,
    edited,
    manifest_signer,
    pinned,
    put,
    sealed,
    shown_of,
    write,
)

LOG = a_log("one", "two", "one!")


def with_entry(place: int, kind: EntryKind, name: str, **changes) -> list:
    """The log with one entry sealed anew; the tree is made over it."""
    entry = sealed(**{"index": place, "kind": kind, "name": name, **changes})
    return [*LOG[:place], entry, *LOG[place + 1 :]]


def another_root() -> bytes:
    return root_of([leaf_hash(opened.entry.encode()) for opened in a_log("one", "two", "three")])


def relabelled_checkpoint(folder, tenant_uid="a"):
    """Another log whose checkpoint's signature line has the pinned name: it is not signed, one key signs for all."""
    other = b"M" * 16
    write(folder, a_log("one", tenant_uid=tenant_uid, log_id=other), tenant_uid=tenant_uid, log_id=other)
    note = (folder / CHECKPOINT).read_text().partition("\n\n")[0] + "\n"
    (folder / CHECKPOINT).write_bytes(forgery.log_signer().sign(note))
    manifest = Manifest.parse((folder / MANIFEST).read_bytes())
    files = {one: (folder / one).read_bytes() for one in manifest.files}
    listed = {one: listed_file(data) for one, data in files.items()}
    put(folder, files, dataclasses.replace(manifest, files=listed).encode(), manifest_signer(other))
    return folder, dataclasses.replace(pinned(), manifest=pinned(other).manifest)


def relabelled_manifest(folder):
    """The same with the manifest's."""
    other = b"M" * 16
    write(folder, a_log("one", log_id=other), log_id=other)
    note = (folder / SIGNATURE).read_text().partition("\n\n")[0] + "\n"
    (folder / SIGNATURE).write_bytes(manifest_signer().sign(note))
    return folder, dataclasses.replace(pinned(), log=pinned(other).log)


def signed_another(folder):
    write(folder, LOG)
    (folder / SIGNATURE).write_bytes(sign_manifest(b"another", manifest_signer()))
    return folder


def rewritten(folder, name):
    write(folder, LOG)
    (folder / name).write_bytes(b"Trust me.\n")
    return folder


def unlisted(folder, name):
    write(folder, LOG)
    manifest = Manifest.parse((folder / MANIFEST).read_bytes())
    files = {one: listed for one, listed in manifest.files.items() if one != name}
    put(folder, {}, dataclasses.replace(manifest, files=files).encode(), manifest_signer())
    return folder


def relabelled(folder):
    """Tenant b's log, named tenant a's wherever the manifest's key signs."""
    relabelled_checkpoint(folder, tenant_uid="b")
    manifest = Manifest.parse((folder / MANIFEST).read_bytes())
    put(folder, {}, dataclasses.replace(manifest, tenant_uid="a").encode(), manifest_signer())
    return folder


def test_the_holder_of_the_manifest_key_cannot_pass_one_tenants_log_off_as_anothers(tmp_path):
    found = damages(relabelled(tmp_path / "b"))
    assert "checkpoint: is of another log than the pinned key" in found
    assert "manifest.json: is of another log than the pinned key" in found
    assert "records.jsonl: entry 1 opens the log of another tenant" in found


RECORDS_CHECKS = {
    "the log's id": (
        lambda folder: write(folder, with_entry(3, EntryKind.ADMIT, "x", log_id=b"M" * 16)),
        "one-log",
        "records.jsonl: entry 3 belongs to another log",
    ),
    "time": (
        lambda folder: write(folder, with_entry(3, EntryKind.ADMIT, "two", time_ns=150)),
        "times-never-go-back",
        "records.jsonl: entry 3 goes back in time",
    ),
    "the index": (
        lambda folder: write(folder, with_entry(3, EntryKind.ADMIT, "two", index=4, counter=3)),
        "no-entry-is-missing",
        "records.jsonl: line 4 holds entry 4: entries are missing, added or moved",
    ),
    "unique record ids": (
        lambda folder: write(folder, with_entry(3, EntryKind.REFUSED, "one")),
        "record-ids-are-unique",
        "records.jsonl: entry 3 has the record id of one before it",
    ),
    "counters": (
        lambda folder: write(folder, with_entry(3, EntryKind.ADMIT, "two", counter=2)),
        "counters-follow",
        "records.jsonl: entry 3 does not follow the one before it under its data key",
    ),
    "the log's opening": (
        lambda folder: write(folder, with_entry(3, EntryKind.LOG_OPENED, "two")),
        "opened-once",
        "records.jsonl: entry 3 opens the log where it must not, or does not where it must",
    ),
    "the tenant": (
        lambda folder: write(folder, a_log("one", tenant_uid="b")),
        "opened-for-the-tenant",
        "records.jsonl: entry 1 opens the log of another tenant",
    ),
    "what is spelled": (
        lambda folder: write(folder, LOG, edit=lambda lines: [*lines[:2], b" " + lines[2], *lines[3:]]),
        "one-spelling",
        "records.jsonl: line 3 is not canonical JSON of the known names",
    ),
    "numbers that are numbers": (
        lambda folder: write(folder, LOG, edit=edited(1, index=True)),
        "true-is-no-index",
        "records.jsonl: line 2 shows another index, kind or time than its entry",
    ),
    "what is left out": (
        lambda folder: write(folder, LOG, edit=edited(2, prompt=None)),
        "nothing-is-left-out",
        "records.jsonl: line 3 leaves out its prompt, though the manifest says it is shown",
    ),
    "what is shown": (
        lambda folder: write(
            folder, LOG, change=changed(sections=("meta",)), edit=edited(2, prompt=shown_of(LOG[2], "prompt"))
        ),
        "nothing-hidden-is-shown",
        "records.jsonl: line 3 shows its prompt, though the manifest says it is not shown",
    ),
    "another content": (
        lambda folder: write(
            folder, LOG, edit=edited(2, prompt={**shown_of(LOG[2], "prompt"), "payload": {"text": "no"}})
        ),
        "content-is-committed-to",
        "records.jsonl: line 3 shows another prompt than the entry committed to",
    ),
    "an outcome's admit": (
        lambda folder: write(folder, a_log("one!", "one")),
        "admit-before-outcome",
        "records.jsonl: holds an outcome without its admit before it, and no gap accounts for one",
    ),
    "the neighbour before": (
        lambda folder: write(folder, LOG, part=(2, 5), change=changed(window=Window(200, None))),
        "neighbour-before",
        "records.jsonl: does not begin with an entry from before the window",
    ),
    "the neighbour after": (
        lambda folder: write(folder, LOG, part=(0, 4), change=changed(window=Window(None, 301))),
        "neighbour-after",
        "records.jsonl: does not end with an entry from after the window",
    ),
}


VERIFY_CHECKS = {
    "the root": (
        lambda folder: write(folder, LOG, root=another_root()),
        "root",
        "records.jsonl: does not hash to the checkpoint's root",
    ),
    "the size": (
        lambda folder: write(folder, LOG, part=(0, 4), change=changed(end_index=5)),
        "number-of-entries",
        "records.jsonl: holds 4 entries where the manifest says 5",
    ),
    "counts": (
        lambda folder: write(folder, LOG, change=changed(counts={"admit": 2})),
        "counts",
        "manifest.json: states other counts than the records have",
    ),
    "the checkpoint's log": (
        relabelled_checkpoint,
        "checkpoint-is-of-the-pinned-log",
        "checkpoint: is of another log than the pinned key",
    ),
    "the manifest's log": (
        relabelled_manifest,
        "manifest-is-of-the-pinned-log",
        "manifest.json: is of another log than the pinned key",
    ),
    "what is signed": (
        signed_another,
        "manifest-is-what-is-signed",
        "manifest.json: is not what manifest.sig signs",
    ),
    "what is listed": (
        lambda folder: rewritten(folder, README),
        "files-are-as-listed",
        "README.txt: is not the file the manifest lists",
    ),
    "that all is listed": (
        lambda folder: unlisted(folder, README),
        "all-files-are-listed",
        "manifest.json: lists other files than a bundle has",
    ),
    "one log in both": (
        lambda folder: write(folder, LOG, change=changed(root=another_root())),
        "manifest-and-checkpoint-agree",
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
    make, mark, _ = RECORDS_CHECKS[check]
    folder, keys = forged(make, tmp_path)
    credulous = (
        mutants.changed(record_check, mark, "is_number = True")
        if mark == "true-is-no-index"
        else mutants.without(record_check, mark)
    )
    monkeypatch.setattr(verify, "RecordCheck", credulous.RecordCheck)
    assert damages(folder, keys) == []


@pytest.mark.parametrize("check", VERIFY_CHECKS)
def test_mutant_without_a_check_of_the_whole_finds_nothing(tmp_path, check):
    make, mark, _ = VERIFY_CHECKS[check]
    folder, keys = forged(make, tmp_path)
    found = mutants.without(verify, mark).verify_bundle(folder, keys).damages
    assert [str(damage) for damage in found] == []
