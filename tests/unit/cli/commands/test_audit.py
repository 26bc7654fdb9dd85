"""`tenantry audit`: bundles are written safely, keys are pinned, damage is named."""

from __future__ import annotations

import base64
import errno
import json
import os
import stat

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tenantry.audit.v1.audit_review_service_pb2 import ExportLogResponse

from services.audit.bundle.counts import Tally
from services.audit.bundle.files import (
    CHECKPOINT,
    MANIFEST,
    README,
    RECORDS,
    SIGNATURE,
    listed_file,
    manifest_key_name,
    readme,
    sign_manifest,
)
from services.audit.bundle.manifest import Manifest
from services.audit.keys.signing import load_signing_keys
from services.audit.proofs.merkle import EMPTY_ROOT
from services.audit.proofs.signed_note import Checkpoint, NoteSigner
from services.audit.rpc.grants import GrantCheck
from services.cli.review import grants
from services.cli.review.bundle_folder import BundleError, BundleFolder
from services.common.clock import SystemClock
from services.common.errors import UnavailableError
from services.common.tokens import AUDIT_ISSUER, Audience, TokenVerifier

ORIGIN = "tenantry/audit/" + "ab" * 16


def a_grant(tenant_uid: str) -> str:
    payload = base64.urlsafe_b64encode(json.dumps({"sub": tenant_uid}).encode()).decode().rstrip("=")
    return f"e30.{payload}.c2ln"


@pytest.fixture
def review(mesh, tmp_path):
    """A service that exports a real, empty log of tenant uid-acme; a grant for it is in `acme.grant`."""
    log_key, manifest_key = (Ed25519PrivateKey.from_private_bytes(bytes([n] * 32)) for n in (1, 2))
    log_signer = NoteSigner(ORIGIN, log_key)
    manifest_signer = NoteSigner(manifest_key_name(ORIGIN), manifest_key)
    checkpoint = Checkpoint(ORIGIN, 0, EMPTY_ROOT)
    files = {
        RECORDS: b"",
        CHECKPOINT: log_signer.sign(checkpoint.text()),
        README: readme("uid-acme", 0),
    }
    manifest = Manifest(
        tenant_uid="uid-acme",
        origin=ORIGIN,
        size=0,
        root=EMPTY_ROOT,
        first_index=0,
        end_index=0,
        created_ns=1,
        counts=Tally().counts(),
        files={name: listed_file(data) for name, data in files.items()},
    ).encode()
    files |= {MANIFEST: manifest, SIGNATURE: sign_manifest(manifest, manifest_signer)}
    service = mesh.review
    service.grant = a_grant("uid-acme")
    service.log_keys, service.manifest_keys = (
        [str(log_signer.verifier_key)],
        [str(manifest_signer.verifier_key)],
    )
    for name, data in files.items():
        half = len(data) // 2
        service.pieces += [
            ExportLogResponse(path=name, data=data[:half]),
            ExportLogResponse(path=name, data=data[half:], last=True),
        ]
    mesh.admin.add_tenant("acme")
    mesh.admin.add_tenant("globex")
    (tmp_path / "acme.grant").write_text(service.grant + "\n")
    return service


def export(shell, tmp_path, tenant="acme", out="bundle", *more: str):
    arguments = ("--out", str(tmp_path / out), "--grant-file", str(tmp_path / "acme.grant"), *more)
    return shell("audit", "export", tenant, *arguments)


def test_an_export_is_private_and_verifies_with_the_pinned_keys(shell, review, tmp_path):
    result = export(shell, tmp_path)
    assert result.exit_code == 0, result.output
    folder, pin = tmp_path / "bundle", tmp_path / "state" / "pins" / "uid-acme.json"
    assert f"tenantry audit verify {folder}\n" in result.stderr
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in [pin, *folder.iterdir()]} == {0o600}
    verified = shell("audit", "verify", str(folder))
    assert verified.exit_code == 0, verified.output
    assert f"Checked with the keys pinned in {pin}." in verified.stderr
    assert verified.stdout == f"{folder}: good. 0 entries of tenant uid-acme, none missing.\n"
    assert (
        json.loads(shell("audit", "verify", str(folder), "--keys", str(pin), "--json").stdout)["good"] is True
    )
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_damage_is_named_and_exits_1(shell, review, tmp_path):
    export(shell, tmp_path)
    damaged = tmp_path / "bundle" / README
    damaged.write_bytes(damaged.read_bytes().replace(b"0 entries", b"1 entries"))
    pin = str(tmp_path / "state" / "pins" / "uid-acme.json")
    result = shell("audit", "verify", str(tmp_path / "bundle"), "--keys", pin)
    assert result.exit_code == 1
    assert "README.txt: is not the file the manifest lists" in result.stderr
    report = json.loads(shell("audit", "verify", str(tmp_path / "bundle"), "--keys", pin, "--json").stdout)
    assert report["damages"] == [
        {"file": "README.txt", "what": "is not the file the manifest lists", "is_cause": True}
    ]
    assert report["verdict"].startswith("README.txt changed after the export")
    assert report["keys"] == pin


def test_keys_of_another_log_verify_nothing(shell, review, tmp_path):
    export(shell, tmp_path)
    pin = tmp_path / "state" / "pins" / "uid-acme.json"
    other = str(NoteSigner(ORIGIN, Ed25519PrivateKey.generate()).verifier_key)
    pin.write_text(json.dumps({**json.loads(pin.read_text()), "log_keys": [other]}))
    result = shell("audit", "verify", str(tmp_path / "bundle"), "--keys", str(pin))
    assert result.exit_code == 1
    assert "checkpoint: the signature" in result.stderr


def test_changed_keys_are_refused_before_anything_is_exported(shell, review, tmp_path):
    export(shell, tmp_path)
    pin = tmp_path / "state" / "pins" / "uid-acme.json"
    before = pin.read_bytes()
    review.log_keys = [str(NoteSigner(ORIGIN, Ed25519PrivateKey.generate()).verifier_key)]
    result = export(shell, tmp_path, "acme", "second")
    assert result.exit_code == 1
    assert "shows other keys" in result.stderr
    assert len(review.names) == 1
    assert pin.read_bytes() == before
    assert not (tmp_path / "second").exists()


def test_a_grant_of_another_tenant_is_refused(shell, review, mesh, tmp_path):
    result = export(shell, tmp_path, "globex")
    assert result.exit_code == 2
    assert "not for globex" in result.stderr
    assert not review.names
    assert export(shell, tmp_path, "uid-acme").exit_code == 0
    mesh.admin.error = UnavailableError("etcd cannot be reached")
    assert "give uid-acme in place of acme" in export(shell, tmp_path, "acme", "third").stderr


def test_what_is_no_grant_is_named_but_not_shown(shell, review, tmp_path):
    for text in ("nonsense", "a.b.c", a_grant("../../etc")):
        (tmp_path / "acme.grant").write_text(text)
        result = export(shell, tmp_path)
        assert result.exit_code == 2
        assert "does not hold a reviewer's grant" in result.stderr
        assert text not in result.output


def test_an_export_that_breaks_off_leaves_nothing(shell, review, tmp_path):
    review.error_at_end = UnavailableError("the audit service is stopping")
    review.pieces = review.pieces[:-1]
    assert export(shell, tmp_path).exit_code == 1
    review.error_at_end = None
    assert "only a part" in export(shell, tmp_path).stderr
    assert not (tmp_path / "bundle").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["acme.grant", "state"]


def test_a_folder_that_holds_anything_is_left_alone(shell, review, tmp_path):
    (tmp_path / "bundle").mkdir()
    assert export(shell, tmp_path).exit_code == 0
    assert export(shell, tmp_path).exit_code == 2
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    assert export(shell, tmp_path, "acme", "link").exit_code == 2
    assert len(review.names) == 1


@pytest.mark.parametrize(
    "path",
    [
        "../x", "/etc/x", "a/../../x", "", ".", "..", "a//b", "a/", "./a", ".hidden", "a\\..\\b", "a\x00b", "a\nb",
        "a/b/c/d/e", "x" * 200, "~/x", "\u2024\u2024/x",
    ],
)  # fmt: skip
def test_a_server_cannot_write_elsewhere(tmp_path, path):
    with pytest.raises(BundleError), BundleFolder(tmp_path / "in" / "bundle") as folder:
        folder.add(path, b"x", last=True)
    assert list((tmp_path / "in").iterdir()) == []
    assert list(tmp_path.iterdir()) == [tmp_path / "in"]


@pytest.mark.parametrize(
    "pieces",
    [
        [("a", True), ("a", True)],
        [("a", False), ("b", True)],
        [("a", True), ("a/b", True)],
        [("a/b", True), ("a", True)],
    ],
)
def test_files_come_once_and_one_after_another(tmp_path, pieces):
    def write() -> None:
        with BundleFolder(tmp_path / "bundle") as folder:
            for path, last in pieces:
                folder.add(path, b"x", last=last)
            folder.finish()

    with pytest.raises(BundleError):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_grant_is_issued_where_the_audit_state_is_and_opens_one_log(shell, mesh, tmp_path):
    mesh.admin.add_tenant("acme")
    out = tmp_path / "acme.grant"
    assert "there is no state of an audit service" in shell("audit", "grant", "acme").stderr
    audit_state = tmp_path / "state" / "audit"
    load_signing_keys(audit_state / "keys")
    result = shell("audit", "grant", "acme", "--out", str(out))
    assert result.exit_code == 0, result.output
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    secret = out.read_text().strip()
    assert secret not in result.output
    assert shell("audit", "grant", "acme", "--out", str(out)).exit_code == 2
    verifier = TokenVerifier(audit_state / "jwks.json", AUDIT_ISSUER, Audience.REVIEW, SystemClock())
    check = GrantCheck(verifier)
    assert check.tenant_uid(f"Bearer {secret}", "tenants/uid-acme/auditLog")[0] == "uid-acme"


def test_a_folder_somebody_stands_in_is_not_run(shell, mesh, tmp_path, monkeypatch):
    mesh.admin.add_tenant("acme")
    load_signing_keys(tmp_path / "state" / "audit" / "keys")
    planted = tmp_path / "here" / "services" / "audit" / "rpc" / "issue_grant.py"
    planted.parent.mkdir(parents=True)
    for folder in planted.parents[:2]:
        (folder / "__init__.py").touch()
    planted.write_text("print('planted')")
    monkeypatch.chdir(tmp_path / "here")
    result = shell("audit", "grant", "acme", "--out", "acme.grant")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "here" / "acme.grant").read_text() != "planted\n"


def test_an_issuer_that_does_not_answer_is_said(shell, mesh, tmp_path, monkeypatch):
    mesh.admin.add_tenant("acme")
    (tmp_path / "state" / "audit" / "keys").mkdir(parents=True)
    os.mkfifo(tmp_path / "state" / "audit" / "keys" / "grants.pem")
    monkeypatch.setattr(grants, "_ISSUE_TIMEOUT_SECONDS", 1.0)
    result = shell("audit", "grant", "acme", "--out", str(tmp_path / "acme.grant"))
    assert result.exit_code == 1
    assert "did not answer within" in result.stderr


def test_a_full_disk_is_said_and_leaves_nothing(shell, review, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(BundleFolder, "_begin", full)
    result = export(shell, tmp_path)
    assert result.exit_code == 1
    assert "No space left on device" in result.stderr
    assert "Free space and repeat" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["acme.grant", "state"]


def test_what_is_suggested_can_be_pasted_whatever_a_folder_is_called(shell, review, tmp_path):
    result = export(shell, tmp_path, "acme", "my bundle")
    assert f"audit verify '{tmp_path}/my bundle'\n" in result.stderr
    (tmp_path / "my state").symlink_to(tmp_path / "state")
    result = export(shell, tmp_path, "acme", "second", "--state-dir", str(tmp_path / "my state"))
    assert f"audit verify {tmp_path}/second --state-dir '{tmp_path}/my state'\n" in result.stderr
