"""Bundles made by somebody who holds the manifest's key: named as damaged, and never an exception."""

from __future__ import annotations

import json

import pytest
import rfc8785

from services.audit import bundle
from services.audit.signed_note import NoteSigner
from services.audit.verify import verify_bundle
from tests.unit.audit.audit_state import export, keys_of, new_entry, open_store


@pytest.fixture
def made(tmp_path):
    store = open_store(tmp_path)
    store.commit([new_entry("a", "one"), new_entry("a", "two")], [])
    keys = export(store, tmp_path, "a", tmp_path / "bundle")
    store.close()
    return tmp_path, keys


def sign_again(root, manifest, records=None) -> None:
    """Put a manifest into the bundle, signed, and true of the records given."""
    if records is not None:
        (root / "bundle" / bundle.RECORDS).write_bytes(records)
        digest = bundle.FileDigest()
        digest.update(records)
        sha256, length = digest.result()
        manifest["files"][bundle.RECORDS] = {"sha256": sha256, "bytes": length}
    data = rfc8785.dumps(manifest) + b"\n"
    signer = NoteSigner(bundle.manifest_key_name(manifest["origin"]), keys_of(root).manifest)
    (root / "bundle" / bundle.MANIFEST).write_bytes(data)
    (root / "bundle" / bundle.SIGNATURE).write_bytes(bundle.sign_manifest(data, signer))


def manifest_of(root) -> dict:
    return dict(json.loads((root / "bundle" / bundle.MANIFEST).read_bytes()))


def damages(root, keys) -> list[str]:
    return [str(damage) for damage in verify_bundle(root / "bundle", keys).damages]


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
        {"counts": []},
        {"counts": {"admit": 1}},
        {"size": 1},
        {"size": "4"},
        {"root": "00" * 32},
        {"first_index": 1},
        {"origin": "tenantry/audit/" + "0" * 32},
        {"format": 1},
        {"comment": "all is well"},
    ],
    ids=str,
)
def test_a_signed_manifest_that_says_something_else_is_named(made, change):
    root, keys = made
    sign_again(root, {**manifest_of(root), **change})
    found = damages(root, keys)
    assert any(one.startswith("manifest.") for one in found), found


@pytest.mark.parametrize("missing", sorted(bundle.MANIFEST_NAMES - {"origin"}))
def test_a_signed_manifest_that_leaves_something_out_is_named(made, missing):
    root, keys = made
    sign_again(root, {name: value for name, value in manifest_of(root).items() if name != missing})
    assert any(one.startswith("manifest.json") for one in damages(root, keys))


def without_prompt(root) -> bytes:
    lines = [json.loads(line) for line in (root / "bundle" / bundle.RECORDS).read_bytes().splitlines()]
    del lines[2]["prompt"]
    return b"".join(rfc8785.dumps(line) + b"\n" for line in lines)


@pytest.mark.parametrize(
    ("filters", "hidden"),
    [
        ({}, True),
        ({"start_ns": "0"}, True),
        ({"end_ns": "9" * 19}, True),
        ({"end_ns": "1"}, False),
        ({"start_ns": "9" * 19}, False),
    ],
    ids=str,
)
def test_content_may_be_left_out_beyond_the_stated_window_only(made, filters, hidden):
    root, keys = made
    sign_again(root, {**manifest_of(root), "filters": filters}, without_prompt(root))
    found = damages(root, keys)
    expected = "records.jsonl: line 3 leaves out its prompt, though its time was asked for"
    assert expected in found if hidden else found == []


@pytest.mark.parametrize(
    "spell", [str.upper, lambda text: text[:2] + " " + text[2:]], ids=["capitals", "a space"]
)
@pytest.mark.parametrize("where", ["entry", "salt"])
def test_hex_has_one_spelling(made, spell, where):
    root, keys = made
    lines = [json.loads(line) for line in (root / "bundle" / bundle.RECORDS).read_bytes().splitlines()]
    if where == "entry":
        lines[2]["entry"] = spell(lines[2]["entry"])
    else:
        lines[2]["meta"]["salt"] = spell(lines[2]["meta"]["salt"])
    sign_again(root, manifest_of(root), b"".join(rfc8785.dumps(line) + b"\n" for line in lines))
    assert "records.jsonl: line 3 is not spelled in lowercase hex" in damages(root, keys)


@pytest.mark.parametrize(
    "line", [b"", b"[]", b"5", b"{}", b'"entry"', b'{"entry":5}', b"[" * 100_000, b"\xff", b'{"entry":""}']
)
def test_any_line_of_records_is_a_finding_and_never_an_exception(made, line):
    root, keys = made
    sign_again(root, manifest_of(root), line + b"\n")
    assert any(one.startswith("records.jsonl: line 1 ") for one in damages(root, keys))
