"""Makes bundles as a holder of every signing key could: right in all but the part that a test changes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.audit.bundle.counts import Tally
from services.audit.bundle.files import (
    CHECKPOINT,
    MANIFEST,
    README,
    RECORDS,
    SIGNATURE,
    OpenedEntry,
    listed_file,
    manifest_key_name,
    record_line,
    sign_manifest,
)
from services.audit.bundle.manifest import SECTION_NAMES, Manifest
from services.audit.bundle.pinned_keys import PinnedKey, PinnedKeys
from services.audit.bundle.verify import verify_bundle
from services.audit.keys.envelope import DataKey, dek_open_entry, salted
from services.audit.proofs.entry import EntryKind, Header, name_digest
from services.audit.proofs.merkle import leaf_hash, range_proof, root_of
from services.audit.proofs.signed_note import Checkpoint, NoteSigner

LOG_ID, DEK_ID = b"L" * 16, b"D" * 16
LOG_KEY, MANIFEST_KEY = (Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (1, 2))
Opened = OpenedEntry
Change = Callable[[Manifest], Manifest]


def origin_of(log_id: bytes) -> str:
    return f"tenantry/audit/{log_id.hex()}"


def log_signer(log_id: bytes = LOG_ID) -> NoteSigner:
    return NoteSigner(origin_of(log_id), LOG_KEY)


def manifest_signer(log_id: bytes = LOG_ID) -> NoteSigner:
    return NoteSigner(manifest_key_name(origin_of(log_id)), MANIFEST_KEY)


def pinned(log_id: bytes = LOG_ID) -> PinnedKeys:
    return PinnedKeys(
        (PinnedKey(log_signer(log_id).verifier_key),), (PinnedKey(manifest_signer(log_id).verifier_key),)
    )


def record_id(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()[:16]


def sealed(index: int, kind: EntryKind, name: str, log_id: bytes = LOG_ID, **changes) -> Opened:
    """Entry `index` of a log, at 100 times its index; header fields can be given otherwise."""
    fields = {
        "kind": kind,
        "log_id": log_id,
        "index": index,
        "time_ns": 100 * index,
        "record_id": record_id(name),
        "admit_record_id": bytes(16),
        "key_digest": bytes(16),
        "session_id": bytes(16),
        "writer_digest": bytes(16),
        "dek_id": DEK_ID,
        "counter": index,
        **changes,
    }
    key = DataKey(b"k" * 32, log_id, fields["dek_id"])
    if kind is EntryKind.DEK_OPEN:
        opening = Header(**{**fields, "record_id": fields["dek_id"], "counter": 0})
        return Opened(dek_open_entry(opening, key), None)
    payloads = (b'{"of":"' + name.encode() + b'"}', b'{"text":"' + name.encode() + b'"}', None)
    sections = salted(payloads, os.urandom)
    entry, _ = key.seal(Header(**fields), sections)
    return Opened(entry, sections)


def a_log(*names: str, tenant_uid: str = "a", log_id: bytes = LOG_ID) -> list[Opened]:
    """A log of admits; `<name>!` is the outcome of `<name>`."""
    entries = [
        sealed(0, EntryKind.DEK_OPEN, "", log_id),
        sealed(
            1, EntryKind.LOG_OPENED, "opened", log_id, record_id=log_id, key_digest=name_digest(tenant_uid)
        ),
    ]
    for index, name in enumerate(names, start=2):
        if name.endswith("!"):
            admit = {"admit_record_id": record_id(name[:-1])}
            entries.append(sealed(index, EntryKind.OUTCOME, name, log_id, **admit))
        else:
            entries.append(sealed(index, EntryKind.ADMIT, name, log_id))
    return entries


def shown(opened: Sequence[Opened], manifest: Manifest) -> list[Opened]:
    """Entries with what a manifest says is shown of them."""
    found = []
    for one in opened:
        header = one.entry.header
        kept = [
            section if manifest.shows(name, header.time_ns, header.dek_id) else None
            for name, section in zip(SECTION_NAMES, one.sections or (None, None, None), strict=True)
        ]
        found.append(Opened(one.entry, (kept[0], kept[1], kept[2])))
    return found


def write(
    folder: Path,
    log: Sequence[Opened],
    *,
    part: tuple[int, int] | None = None,
    tenant_uid: str = "a",
    log_id: bytes = LOG_ID,
    root: bytes | None = None,
    change: Change = lambda manifest: manifest,
    edit: Callable[[list[bytes]], list[bytes]] = lambda lines: lines,
) -> Path:
    """A bundle of a part of a log, or of all.

    Args:
        folder: where to.
        log: all of its entries.
        part: first index and the one behind the last.
        tenant_uid: what the manifest says.
        log_id: whose checkpoint it has.
        root: what the checkpoint says, if not the truth.
        change: of the manifest before the lines are made and before it is signed.
        edit: of the lines of records.jsonl.
    """
    first, end = part or (0, len(log))
    leaves = [leaf_hash(opened.entry.encode()) for opened in log]
    checkpoint = Checkpoint(origin_of(log_id), len(log), root or root_of(leaves))
    tally = Tally()
    for opened in log[first:end]:
        tally.push(opened.entry.header)
    manifest = Manifest(
        tenant_uid=tenant_uid,
        origin=checkpoint.origin,
        size=checkpoint.size,
        root=checkpoint.root,
        first_index=first,
        end_index=end,
        created_ns=1,
        counts=tally.counts(),
        files={},
        proof=range_proof(leaves, first, end),
    )
    manifest = change(manifest)
    files = {
        RECORDS: b"".join(edit([record_line(one) for one in shown(log[first:end], manifest)])),
        CHECKPOINT: log_signer(log_id).sign(checkpoint.text()),
        README: b"A bundle.\n",
    }
    if not manifest.files:
        listed = {name: listed_file(data) for name, data in files.items()}
        manifest = dataclasses.replace(manifest, files=listed)
    put(folder, files, manifest.encode(), manifest_signer(log_id))
    return folder


def put(folder: Path, files: dict[str, bytes], manifest: bytes, signer: NoteSigner) -> None:
    """Write files, manifest and signature."""
    folder.mkdir(exist_ok=True)
    signature = sign_manifest(manifest, signer)
    for name, data in {**files, MANIFEST: manifest, SIGNATURE: signature}.items():
        (folder / name).write_bytes(data)


def damages(folder, keys=None) -> list[str]:
    return [str(damage) for damage in verify_bundle(folder, keys or pinned()).damages]


def changed(**fields):
    return lambda manifest: dataclasses.replace(manifest, **fields)


def edited(number: int, **names):
    """Lines of which one says something else."""

    def edit(lines: list[bytes]) -> list[bytes]:
        record = {**json.loads(lines[number]), **names}
        found = {name: value for name, value in record.items() if value is not None}
        return [*lines[:number], rfc8785.dumps(found) + b"\n", *lines[number + 1 :]]

    return edit


def shown_of(opened: Opened, name: str) -> dict:
    """A section as a line of records.jsonl shows it."""
    return dict(json.loads(record_line(opened))[name])
