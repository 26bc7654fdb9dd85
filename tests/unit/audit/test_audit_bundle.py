"""A bundle verifies with the pinned keys, and any flipped byte of any file is named."""

from __future__ import annotations

import json
import shutil

import pytest

from services.audit import bundle
from services.audit.entry import EntryKind
from services.audit.signed_note import NoteSigner
from services.audit.verify import PinnedKeys, verify_bundle
from tests.unit.audit.audit_state import export, keys_of, new_entry, open_store


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("audit")
    store = open_store(root)
    admit = new_entry("a", "what is ünïcode?", record_id=b"1" * 16, key_id="key-1")
    outcome = new_entry("a", "it is", EntryKind.OUTCOME, admit_record_id=b"1" * 16)
    store.commit([admit, new_entry("b")], [])
    store.commit([outcome, new_entry("a", "unanswered")], [])
    keys = export(store, root, "a", root / "bundle")
    other = export(store, root, "b", root / "other")
    store.close()
    return root, keys, other


def test_a_whole_bundle_verifies_and_counts(made):
    root, keys, _ = made
    report = verify_bundle(root / "bundle", keys)
    assert report.good, report.damages
    assert report.counts == {"admit": 2, "dek_open": 1, "log_opened": 1, "outcome": 1, "open": 1}
    records = [json.loads(line) for line in (root / "bundle" / bundle.RECORDS).read_text().splitlines()]
    assert records[2]["prompt"]["payload"] == {"text": "what is ünïcode?"}
    assert "key-1" not in (root / "bundle" / bundle.RECORDS).read_text()


def test_every_flipped_byte_of_every_file_is_named(made, tmp_path):
    root, keys, _ = made
    copy = shutil.copytree(root / "bundle", tmp_path / "copy")
    for path in sorted(copy.iterdir()):
        original = path.read_bytes()
        # A stride that meets every byte of every kind of line over the columns of a line, and all of the small files.
        for place in range(0, len(original), 3 if len(original) > 600 else 1):
            path.write_bytes(
                original[:place] + bytes([original[place] ^ (1 << place % 8)]) + original[place + 1 :]
            )
            report = verify_bundle(copy, keys)
            assert path.name in {damage.file for damage in report.damages}, (path.name, place)
        path.write_bytes(original)
    assert verify_bundle(copy, keys).good


@pytest.mark.parametrize("edit", ["drop", "swap", "repeat", "cut", "extra-file", "missing-file", "symlink"])
def test_other_tampering_is_named(made, tmp_path, edit):
    root, keys, _ = made
    copy = shutil.copytree(root / "bundle", tmp_path / "copy")
    records = copy / bundle.RECORDS
    lines = records.read_bytes().splitlines(keepends=True)
    if edit == "extra-file":
        (copy / "note.txt").write_text("hello")
    elif edit == "missing-file":
        (copy / bundle.CHECKPOINT).unlink()
    elif edit == "symlink":
        records.rename(tmp_path / "elsewhere")
        records.symlink_to(tmp_path / "elsewhere")
    else:
        changed = {
            "drop": lines[:1] + lines[2:],
            "swap": [lines[1], lines[0], *lines[2:]],
            "repeat": [*lines, lines[-1]],
            "cut": lines[:-1],
        }[edit]
        records.write_bytes(b"".join(changed))
    assert not verify_bundle(copy, keys).good


def test_another_logs_keys_do_not_verify_it(made):
    root, keys, other = made
    assert not verify_bundle(root / "bundle", other).good
    assert not verify_bundle(root / "bundle", PinnedKeys(keys.log, other.manifest)).good
    assert not verify_bundle(root / "other", keys).good


def test_a_forger_with_the_manifest_key_still_needs_the_logs(made, tmp_path):
    """Resigning a doctored manifest is not enough: the records do not hash to the checkpoint's root."""
    root, keys, _ = made
    copy = shutil.copytree(root / "bundle", tmp_path / "copy")
    records = copy / bundle.RECORDS
    forged = records.read_bytes().replace(b"it is", b"it isn")
    records.write_bytes(forged)
    document = json.loads((copy / bundle.MANIFEST).read_bytes())
    digest = bundle.FileDigest()
    digest.update(forged)
    files = {name: (item["sha256"], item["bytes"]) for name, item in document["files"].items()}
    files[bundle.RECORDS] = digest.result()
    manifest = bundle.manifest(
        tenant_uid="a",
        origin=document["origin"],
        size=document["size"],
        root=bytes.fromhex(document["root"]),
        created_ns=1,
        filters={},
        entry_counts=document["counts"],
        files=files,
    )
    (copy / bundle.MANIFEST).write_bytes(manifest)
    signer = NoteSigner(bundle.manifest_key_name(document["origin"]), keys_of(root).manifest)
    (copy / bundle.SIGNATURE).write_bytes(bundle.sign_manifest(manifest, signer))
    report = verify_bundle(copy, keys)
    assert bundle.RECORDS in {damage.file for damage in report.damages}
