"""The service writes what docs/formats specifies: a reader made from those pages reads a log and a bundle."""

from __future__ import annotations

import ast
import base64
import dataclasses
import hashlib
import hmac
import json
import re
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.audit.bundle.manifest import Window
from services.audit.keys import envelope
from services.audit.proofs.entry import EntryKind
from services.audit.storage.frames import SessionMark
from tests.unit.audit import documented_log
from tests.unit.audit.audit_state import abandon, export, new_entry, open_store
from tests.unit.audit.bundle.forgery import a_log, write

ROOT = Path(__file__).parents[3]
PAGES = {
    name: (ROOT / "docs" / "formats" / f"{name}.md").read_text() for name in ("audit-log", "audit-bundle")
}


@pytest.fixture
def state(tmp_path):
    """Two tenants' logs in a journal that was not folded."""
    store = open_store(tmp_path)
    store.commit(
        [
            new_entry("a", "one", key_id="key-1", session_id=b"s" * 16, writer="router-1"),
            new_entry("b", "two"),
        ],
        [SessionMark(b"s" * 16, 2)],
    )
    outcome = new_entry("a", "three", EntryKind.OUTCOME, admit_record_id=b"1" * 16)
    store.commit([outcome], [], ["a"])
    abandon(store)
    return tmp_path


def log_key(state: Path) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes((state / "keys" / "log.ed25519").read_bytes())


def verifier_key(name: str, key: Ed25519PrivateKey) -> str:
    public = b"\x01" + key.public_key().public_bytes_raw()
    key_id = hashlib.sha256(name.encode() + b"\n" + public).digest()[:4].hex()
    return f"{name}+{key_id}+{base64.b64encode(public).decode()}"


def log_of(state: Path) -> bytes:
    """Tenant a's log."""
    (listed,) = json.loads((state / "logs" / "tenants.json").read_bytes())["tenants"]["a"]
    return bytes.fromhex(listed["log_id"])


def entries_of(frames, log_id: bytes) -> list[bytes]:
    bodies = [body for kind, body, _ in frames if kind in (documented_log.DATA, documented_log.DEK_OPEN)]
    return [body for body in bodies if body[2:18] == log_id]


def test_a_journal_reads_as_documented(state):
    (path,) = (state / "wal").iterdir()
    frames = documented_log.read_journal(path)
    assert documented_log.check_batches(frames, log_key(state).public_key()) == 2
    assert [body for kind, body, _ in frames if kind == documented_log.SESSION] == [
        b"s" * 16 + b"\0" * 7 + b"\x02"
    ]
    log_id = log_of(state)
    bodies = entries_of(frames, log_id)
    headers = [documented_log.header(body) for body in bodies]
    assert [(one["version"], one["kind"], one["index"], one["counter"]) for one in headers] == [
        (1, 10, 0, 0),
        (1, 11, 1, 1),
        (1, 1, 2, 2),
        (1, 2, 3, 3),
    ]
    opening, opened, admit, outcome = headers
    assert opened["record_id"] == log_id
    assert opened["admit_record_id"] == bytes(16)
    assert opened["key_digest"] == hashlib.sha256(b"a").digest()[:16]
    assert (admit["session_id"], admit["writer_digest"]) == (
        b"s" * 16,
        hashlib.sha256(b"router-1").digest()[:16],
    )
    assert (opened["session_id"], opened["writer_digest"]) == (bytes(16), bytes(16))
    assert opening["record_id"] == opening["dek_id"] == admit["dek_id"]
    assert admit["key_digest"] == hashlib.sha256(b"key-1").digest()[:16]
    assert outcome["admit_record_id"] == b"1" * 16
    (checkpoint,) = [body for kind, body, _ in frames if kind == documented_log.CHECKPOINT]
    assert checkpoint[:16] == log_id
    origin = f"tenantry/audit/{log_id.hex()}"
    lines = documented_log.open_note(checkpoint[16:], verifier_key(origin, log_key(state)))
    root = documented_log.root_of([documented_log.leaf(body[:266]) for body in bodies])
    assert lines == [origin, "4", base64.b64encode(root).decode()]


def opened_all(state: Path) -> dict[bytes, list]:
    """The payloads of every entry in the journal, by log, each opened under the key that its DEK_OPEN frame carries."""
    (path,) = (state / "wal").iterdir()
    root_file = (state / "keys" / "root.kek").read_bytes()
    keys: dict[bytes, bytes] = {}
    opened: dict[bytes, list] = {}
    for kind, body, _ in documented_log.read_journal(path):
        if kind not in (documented_log.DATA, documented_log.DEK_OPEN):
            continue
        header = documented_log.header(body)
        log_id, dek_id = header["log_id"], header["dek_id"]
        if kind == documented_log.DEK_OPEN:
            keyring = (state / "keyring" / log_id.hex()).read_bytes()
            keys[dek_id], commitment = documented_log.derived_keys(root_file, keyring, dek_id, body[266:])
            assert len(body) == 266 + 64
            assert body[138:266] == hashlib.sha256(b"").digest() + commitment + bytes(64)
        else:
            opened.setdefault(log_id, []).append(documented_log.open_content(keys[dek_id], body))
    return opened


def test_every_entry_opens_as_documented(state):
    keyring = json.loads((state / "keyring" / log_of(state).hex()).read_bytes())
    assert keyring["deks"] == {}  # not folded yet: only the frame has it
    opened = opened_all(state)
    assert len(opened) == 2
    assert opened[log_of(state)] == [
        [b'{"predecessor":null,"tenant_uid":"a"}', None, None],
        [b'{"a":1}', b'{"text":"one"}', None],
        [b'{"a":1}', b'{"text":"three"}', None],
    ]


def test_mutant_that_uses_one_nonce_for_all_does_not_open(tmp_path, monkeypatch):
    monkeypatch.setattr(envelope, "_nonce", lambda header: (1).to_bytes(12, "big"))
    store = open_store(tmp_path)
    store.commit([new_entry("a", "one")], [])
    abandon(store)
    with pytest.raises(InvalidTag):
        opened_all(tmp_path)


def test_segments_read_as_documented(state):
    (path,) = (state / "wal").iterdir()
    log_id = log_of(state)
    before = entries_of(documented_log.read_journal(path), log_id)
    store = open_store(state)  # folds what it finds
    store.commit([new_entry("a", "four")], [])
    store.close()
    segments = state / "logs" / log_id.hex() / "segments"
    frames = [documented_log.read_segment(segments / f"{number:08d}.seg") for number in (1, 2)]
    assert [kind for kind, _, _ in frames[0]] == [documented_log.DEK_OPEN, *[documented_log.DATA] * 3]
    assert [kind for kind, _, _ in frames[1]] == [documented_log.DEK_OPEN, documented_log.DATA]
    assert entries_of(frames[0], log_id) == before
    deks = json.loads((state / "keyring" / log_id.hex()).read_bytes())["deks"]
    for (_, opening, _), *_ in frames:
        listed = deks[documented_log.header(opening)["dek_id"].hex()]
        assert opening[266:].hex() == f"{listed['kek_version']:08x}" + listed["wrapped"]


def test_a_bundle_reads_as_documented(tmp_path):
    store = open_store(tmp_path)
    store.commit([new_entry("a", "one"), new_entry("a", "two")], [])
    keys = export(store, tmp_path, "a", tmp_path / "bundle")
    store.close()
    files = {path.name: path.read_bytes() for path in (tmp_path / "bundle").iterdir()}
    manifest = json.loads(files["manifest.json"])
    signed = documented_log.open_note(files["manifest.sig"], str(keys.manifest[0]))
    assert signed == ["tenantry/audit-bundle/v1", hashlib.sha256(files["manifest.json"]).hexdigest()]
    assert set(files) - set(manifest["files"]) == {"manifest.json", "manifest.sig"}
    for name, listed in manifest["files"].items():
        assert listed == {"sha256": hashlib.sha256(files[name]).hexdigest(), "bytes": len(files[name])}
    leaves = []
    for number, line in enumerate(files["records.jsonl"].splitlines()):
        record = json.loads(line)
        assert line.decode() == json.dumps(record, sort_keys=True, separators=(",", ":"))
        entry = bytes.fromhex(record["entry"])
        leaves.append(documented_log.leaf(entry))
        assert record["index"] == documented_log.header(entry)["index"] == number
        for place, name in enumerate(("meta", "prompt", "answer")):
            if name in record:
                payload = json.dumps(record[name]["payload"], sort_keys=True, separators=(",", ":")).encode()
                expected = hmac.new(bytes.fromhex(record[name]["salt"]), payload, "sha256").digest()
                assert entry[170 + 32 * place :][:32] == expected
    root = documented_log.root_of(leaves)
    lines = documented_log.open_note(files["checkpoint"], str(keys.log[0]))
    assert lines == [manifest["origin"], "4", base64.b64encode(root).decode()]
    assert manifest["root"] == root.hex()


@pytest.mark.parametrize("part", [(0, 9), (0, 4), (3, 6), (4, 5), (7, 9), (1, 8)])
def test_a_part_of_a_log_reads_as_documented(tmp_path, part):
    log = a_log(*"abcdefg")
    window = Window(100 * part[0] + 1, 100 * part[1] - 100)
    folder = write(
        tmp_path / "b", log, part=part, change=lambda manifest: dataclasses.replace(manifest, window=window)
    )
    manifest = json.loads((folder / "manifest.json").read_bytes())
    lines = (folder / "records.jsonl").read_bytes().splitlines()
    leaves = [documented_log.leaf(bytes.fromhex(json.loads(line)["entry"])) for line in lines]
    assert len(leaves) == manifest["end_index"] - manifest["first_index"]
    root = documented_log.root_of_part(manifest["size"], manifest["first_index"], leaves, manifest["proof"])
    whole = [documented_log.leaf(opened.entry.encode()) for opened in log]
    assert manifest["root"] == root.hex() == documented_log.root_of(whole).hex()


def test_the_reader_knows_nothing_of_the_service():
    source = Path(documented_log.__file__).read_text()
    assert not re.search(
        r"^\s*(from|import) (services|tenantry|tests|google_crc32c|rfc8785)", source, re.MULTILINE
    )
    assert documented_log.crc32c(b"123456789") == 0xE3069283  # the check value of CRC-32C


def texts_of(module: str) -> set[str]:
    """The constant parts of what a module says of damage."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / "services" / "audit" / f"{module}.py").read_text())):
        said = isinstance(node, ast.Call) and (
            getattr(node.func, "id", "") in ("NoteError", "EntryFormatError", "ManifestError")
            or getattr(node.func, "attr", "") in ("add", "append")
        )
        for part in ast.walk(node) if said else ():
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                found.add(part.value.strip(" ,"))
    return {text for text in found if len(text) > 8 and "verifier key" not in text}


def test_every_damage_the_verifier_names_is_documented():
    named = {
        module: texts_of(module)
        for module in (
            "bundle/verify",
            "bundle/record_check",
            "bundle/manifest",
            "bundle/pinned_keys",
            "proofs/signed_note",
            "proofs/entry",
        )
    }
    assert all(named.values()), named
    texts = set().union(*named.values()) - {"manifest.json", "not a range of sizes"}
    assert len(texts) > 35
    assert [text for text in sorted(texts) if text not in PAGES["audit-bundle"]] == []


def test_the_pages_say_every_kind_of_entry():
    for kind in EntryKind:
        assert f"{kind.value} `{kind.name.lower()}`" in PAGES["audit-log"]
