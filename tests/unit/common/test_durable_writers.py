"""Files that have to outlive a crash: power fails at any moment of a first start, and the next start goes on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tenantry.audit.v1.audit_review_service_pb2 import VerificationKeys

from services.audit.keys.root import FileKeyProvider
from services.audit.keys.signing import load_signing_keys
from services.cli.review.pins import Pin, check_pin, pin_path, read_pin
from services.common.artifacts import DirectoryArtifactStore
from services.common.known_good.generations import load_key, read_record, write_record
from services.config.admin.bootstrap import load_issuer
from services.config.recovery.allocation_marks import FILE, Allocated, read_marks, write_marks
from services.config.state import sealing
from tests.fakes.mutants import replaced
from tests.fakes.power_failures import recorded, restore


def config_root_key(folder: Path) -> object:
    return sealing.load_root_key(folder / "root.key")


def config_token_key(folder: Path) -> object:
    return load_issuer(folder).jwks(), (folder / "jwks.json").read_text()


def audit_root_key(folder: Path) -> object:
    return FileKeyProvider(folder / "root.kek")._roots


def audit_signing_keys(folder: Path) -> object:
    (folder / "keys").mkdir(exist_ok=True)
    keys = load_signing_keys(folder / "keys")
    return keys.log.private_bytes_raw(), keys.manifest.private_bytes_raw(), keys.grants.jwks()


def router_key(folder: Path) -> object:
    return load_key(folder / "lkg.key")


def record_beside_last_known_good(folder: Path) -> object:
    write_record(folder / "cluster", "0123")
    return read_record(folder / "cluster")


def allocation_marks(folder: Path) -> object:
    write_marks(folder / FILE, Allocated(7, 3))
    return read_marks(folder / FILE)


def artifact(folder: Path) -> object:
    store = DirectoryArtifactStore(folder)
    return store.read(store.put(b"a tokeniser"))


def pinned_keys(folder: Path) -> object:
    check_pin(folder, "a", VerificationKeys(log_keys=["l"], manifest_keys=["m"]))
    pin: Pin = read_pin(pin_path(folder, "a"))
    return pin


WRITERS = [
    config_root_key,
    config_token_key,
    audit_root_key,
    audit_signing_keys,
    router_key,
    record_beside_last_known_good,
    allocation_marks,
    artifact,
    pinned_keys,
]


def starts_after_power_failures(folder: Path, write) -> list[object]:
    """What the next start finds when power fails right after the first, having gone on after every other moment."""
    first = []
    ever, last = recorded(folder, lambda: first.append(write(folder))).outcomes()
    for outcome in ever:
        restore(folder, outcome)
        write(folder)
    found = []
    for outcome in last:
        restore(folder, outcome)
        found.append(write(folder))
    return [*first, *found]


@pytest.mark.parametrize("write", WRITERS)
def test_a_start_goes_on_after_power_failed_in_the_one_before(tmp_path, write):
    first, *found = starts_after_power_failures(tmp_path, write)
    assert found
    assert all(one == first for one in found)


def in_place(path: Path, make, mode: int = 0o400) -> bytes:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
    except FileExistsError:
        return path.read_bytes()
    os.write(descriptor, make())
    os.fsync(descriptor)
    os.close(descriptor)
    return path.read_bytes()


def test_that_test_notices_a_root_key_that_a_crash_leaves_empty(tmp_path):
    broken = replaced(sealing, "read_or_create", in_place)
    with pytest.raises(broken.SealError, match="holds 0 bytes"):
        starts_after_power_failures(tmp_path, lambda folder: broken.load_root_key(folder / "root.key"))
