"""A log store over a temporary directory, driven without a service."""

from __future__ import annotations

import os
from pathlib import Path

from services.audit.bundle.export import LogReader, export_bundle
from services.audit.bundle.files import manifest_key_name
from services.audit.bundle.manifest import Window
from services.audit.bundle.pinned_keys import PinnedKey, PinnedKeys
from services.audit.keys.root import FileKeyProvider
from services.audit.keys.signing import SigningKeys, load_signing_keys
from services.audit.logs.segments import read_entries
from services.audit.logs.store import LogStore
from services.audit.logs.tenant_log import NewEntry
from services.audit.proofs.entry import Entry, EntryKind
from services.audit.proofs.signed_note import Checkpoint, NoteSigner, open_note
from services.audit.storage.state_directory import StateDirectory
from tests.fakes.manual_clock import ManualClock


def keys_of(root: Path) -> SigningKeys:
    return load_signing_keys(root / "keys")


def open_store(root: Path, clock: ManualClock | None = None) -> LogStore:
    directory = StateDirectory.claim(root)
    try:
        keys = keys_of(root)
        provider = FileKeyProvider(root / "keys" / "root.kek")
        return LogStore(directory, keys, provider, clock or ManualClock())
    except Exception:
        directory.release()
        raise


def abandon(store: LogStore) -> None:
    """Leave a store as kill -9 would: nothing folded, the lock gone."""
    store._directory.release()
    if store._journal._descriptor is not None:
        os.close(store._journal._descriptor)


def entries_of(store: LogStore, tenant_uid: str) -> list[Entry]:
    """A log's entries, folded first."""
    log = store.log(tenant_uid)
    assert log is not None
    store.fold()
    return [entry for entry, _ in read_entries(store.folder(log.log_id), log.folded)]


def new_entry(tenant_uid: str, text: str = "x", kind: EntryKind = EntryKind.ADMIT, **fields) -> NewEntry:
    payload = b'{"text":"' + text.encode() + b'"}'
    fields.setdefault("record_id", os.urandom(16))
    return NewEntry(tenant_uid, kind=kind, payloads=(b'{"a":1}', payload, None), **fields)


def export(store: LogStore, root: Path, tenant_uid: str, directory: Path) -> PinnedKeys:
    """Write a bundle; returns the keys a verifier would have pinned."""
    store.commit([], [], [tenant_uid])
    store.fold()
    log = store.log(tenant_uid)
    assert log is not None
    assert log.checkpoint_note is not None
    keys = keys_of(root)
    log_signer = NoteSigner(log.origin, keys.log)
    manifest_signer = NoteSigner(manifest_key_name(log.origin), keys.manifest)
    checkpoint = Checkpoint.parse(open_note(log.checkpoint_note, log_signer.verifier_key))
    directory.mkdir(parents=True)
    reader = LogReader(store.folder(log.log_id), log.folded, log.keyset)
    for path, data, _ in export_bundle(
        reader,
        checkpoint,
        log.checkpoint_note,
        manifest_signer,
        tenant_uid=tenant_uid,
        created_ns=1,
        window=Window(),
    ):
        with (directory / path).open("ab") as file:
            file.write(data)
    return PinnedKeys((PinnedKey(log_signer.verifier_key),), (PinnedKey(manifest_signer.verifier_key),))
