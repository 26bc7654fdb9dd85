"""Tenants' text and keys are nowhere in the clear: not in the audit service's files, not in its log."""

from __future__ import annotations

from pathlib import Path

import pytest
import rfc8785
from tenantry.audit.v1 import entry_pb2

from services.audit.keys import keyset as keysets
from services.audit.keys import root as root_keys
from services.audit.keys.envelope import DataKey
from services.audit.keys.keyring import Keyring
from services.audit.keys.root import FileKeyProvider
from services.audit.keys.wrap import dek_place, kek_place, unwrap
from tests.fakes.audit_service import AuditServicePlane, BareStream, append_entry
from tests.unit.audit.audit_state import abandon, new_entry, open_store

pytestmark = pytest.mark.integration
SAID, ANSWERED, NOTED, KEY_ID = "quokka-4711", "numbat-2718", "bilby-1618", "key-of-a-caller-1414"
TEXT = [word.encode() for word in (SAID, ANSWERED, NOTED, KEY_ID)]


def holders(folder: Path, needles: list[bytes]) -> set[str]:
    """Files below a folder that hold one of the needles, as bytes or in hex."""
    spelled = [form for needle in needles for form in (needle, needle.hex().encode())]
    found = set()
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            if any(form in data for form in spelled):
                found.add(str(path.relative_to(folder)))
    return found


def secret_keys(state: Path) -> tuple[bytes, list[bytes]]:
    """The root key, and every tenant's key and data key as they are in use."""
    root = state / "keys" / "root.kek"
    provider = FileKeyProvider(root)
    keys: list[bytes] = []
    for path in (state / "keyring").iterdir():
        ring = Keyring.decode(path.read_bytes())
        keks = {}
        for version, kek in ring.keks.items():
            place = kek_place(ring.tenant_uid, ring.log_id, kek.root_version, version)
            assert kek.wrapped is not None
            keks[version] = provider.unwrap(kek.wrapped, kek.root_version, place)
        keys += keks.values()
        for dek_id, dek in ring.deks.items():
            place = dek_place(ring.tenant_uid, ring.log_id, dek.kek_version, dek_id)
            keys.append(unwrap(dek.wrapped, keks[dek.kek_version], place))
    return root.read_bytes()[4:], keys


@pytest.fixture
async def plane(tmp_path_factory):
    folder = tmp_path_factory.mktemp("a")
    async with AuditServicePlane(folder, TENANTRY_AUDIT_LOG_LEVEL="DEBUG") as running:
        yield running


async def say_everything(plane) -> None:
    """Entries that are kept, one that is refused for its form, one for its record id."""
    text = {"text": SAID, "note": NOTED}
    first = append_entry(1, "acme", SAID, meta_json=rfc8785.dumps({"note": NOTED}), key_id=KEY_ID)
    second = append_entry(
        2,
        "acme",
        SAID,
        kind=entry_pb2.ENTRY_KIND_OUTCOME,
        admit_record_id=first.record_id,
        answer_json=rfc8785.dumps({"text": ANSWERED}),
        key_id=KEY_ID,
    )
    malformed = append_entry(3, "acme", prompt_json=str(text).encode(), key_id=KEY_ID)
    conflict = append_entry(4, "acme", ANSWERED, record_id=first.record_id, key_id=KEY_ID)
    async with BareStream(plane.append_target) as stream:
        await stream.send([first, second, malformed, conflict])
        await stream.until(lambda: len(stream.acks) == 4)
        assert sorted(stream.receipts) == [1, 2]


async def test_neither_files_nor_the_log_hold_text_or_keys_in_the_clear(plane, tmp_path):
    await say_everything(plane)
    assert list((plane.state / "wal").glob("*.wal"))
    assert holders(plane.state, TEXT) == set()  # in the journal
    grant = await plane.grant("acme")
    exported = await plane.export("acme", tmp_path / "acme", grant)
    assert holders(exported.folder, TEXT[:3]) == {"records.jsonl"}
    await plane.service.end()
    assert list((plane.state / "logs").rglob("*.seg"))
    assert holders(plane.state, TEXT) == set()  # in the segments
    root, keys = secret_keys(plane.state)
    assert len(keys) >= 2
    assert holders(plane.state, keys) == set()
    assert holders(plane.state, [root]) == {"keys/root.kek"}
    log = plane.log_file.read_bytes()
    assert b"DEBUG" in log
    for secret in [*TEXT, grant.encode(), *keys, root]:
        assert secret not in log
        assert secret.hex().encode() not in log


def seal_nothing(self, header, sections):
    """What a service does that forgets to encrypt: the same entry, the plain text in the ciphertext's place."""
    key_of_nobody = type("Plain", (), {"encrypt": lambda _self, nonce, data, place: data + bytes(16)})()
    self._cipher = key_of_nobody
    return DataKey.sealed(self, header, sections)


@pytest.mark.parametrize("step", ["journal", "segments"])
def test_that_search_finds_text_that_was_not_encrypted(tmp_path, monkeypatch, step):
    monkeypatch.setattr(DataKey, "sealed", DataKey.seal, raising=False)
    monkeypatch.setattr(DataKey, "seal", seal_nothing)
    store = open_store(tmp_path)
    store.commit([new_entry("acme", SAID)], [])
    if step == "journal":
        abandon(store)
    else:
        store.close()
    (holder,) = holders(tmp_path, TEXT)
    assert holder.startswith("wal/" if step == "journal" else "logs/")


def test_that_search_finds_a_key_that_was_not_wrapped(tmp_path, monkeypatch):
    for module in (keysets, root_keys):
        monkeypatch.setattr(module, "wrap", lambda key, under, place, random_bytes: key)
        monkeypatch.setattr(module, "unwrap", lambda wrapped, under, place: wrapped)
    store = open_store(tmp_path)
    store.commit([new_entry("acme", SAID)], [])
    store.close()
    (ring,) = (tmp_path / "keyring").iterdir()
    keys = [dek.wrapped for dek in Keyring.decode(ring.read_bytes()).deks.values()]
    segment = f"logs/{ring.name}/segments/00000001.seg"  # its DEK_OPEN frame carries the wrap, too
    assert holders(tmp_path, keys) == {f"keyring/{ring.name}", segment}
