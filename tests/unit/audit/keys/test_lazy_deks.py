"""A data key is durable with the first entry under it, by the journal alone; its keyring file follows at the fold."""

from __future__ import annotations

import json

from services.audit.bundle.export import LogReader
from services.audit.bundle.verify import verify_bundle
from services.common import durable_files
from tests.unit.audit.audit_state import abandon, export, new_entry, open_store


def read_all(store, tenant_uid) -> list[bytes]:
    """The prompts of a tenant's log, decrypted."""
    log = store.log(tenant_uid)
    reader = LogReader(store.folder(log.log_id), log.folded, log.keyset)
    return [
        opened.sections[1].payload
        for opened in reader.entries(lambda _: True)
        if opened.sections and opened.sections[1]
    ]


def test_the_first_entry_after_a_start_writes_no_file_but_the_journal(tmp_path, monkeypatch):
    store = open_store(tmp_path)
    store.commit([new_entry("a", "one")], [])
    store.close()
    store = open_store(tmp_path)
    store.log("a")
    written: list[str] = []

    def replace_files(files, mode=0o600):
        written.extend(path.name for path in files)
        real(files, mode)

    real = durable_files.replace_files
    monkeypatch.setattr(durable_files, "replace_files", replace_files)
    monkeypatch.setattr("services.audit.logs.segments.replace_files", replace_files)
    store.commit([new_entry("a", "two")], [])
    assert written == []
    abandon(store)
    store = open_store(tmp_path)
    store.fold()
    (ring,) = (tmp_path / "keyring").iterdir()
    assert len(json.loads(ring.read_bytes())["deks"]) == 2
    assert ring.name in written
    assert read_all(store, "a") == [b'{"text":"one"}', b'{"text":"two"}']
    store.close()


def test_an_older_keyring_is_completed_from_the_log(tmp_path):
    store = open_store(tmp_path)
    store.log("a", create=True)
    (ring,) = (tmp_path / "keyring").iterdir()
    older = ring.read_bytes()
    store.commit([new_entry("a", "one")], [])
    store.close()
    ring.write_bytes(older)
    store = open_store(tmp_path)
    assert read_all(store, "a") == [b'{"text":"one"}']
    store.close()


def test_with_the_tenant_key_gone_neither_file_nor_frames_open_anything(tmp_path):
    """The log's proofs hold as before, and the bundle says what is gone."""
    store = open_store(tmp_path)
    store.commit([new_entry("a", "one")], [])
    store.close()
    (ring,) = (tmp_path / "keyring").iterdir()
    document = json.loads(ring.read_bytes())
    document["keks"][0]["wrapped"] = None
    for number, deks in enumerate((document["deks"], {})):
        ring.write_text(json.dumps({**document, "deks": deks}))
        store = open_store(tmp_path)
        assert read_all(store, "a") == []
        keys = export(store, tmp_path, "a", tmp_path / f"bundle-{number}")
        report = verify_bundle(tmp_path / f"bundle-{number}", keys)
        assert report.good, report.damages
        assert [dek_id.hex() for dek_id in report.shredded] == list(document["deks"])
        assert report.counts["admit"] == 1
        abandon(store)
