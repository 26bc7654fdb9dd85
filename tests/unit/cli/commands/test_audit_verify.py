"""`tenantry audit verify`: which keys it checks with, what it says of damage, and how it exits."""

from __future__ import annotations

import json

import pytest

from services.audit.bundle.files import CHECKPOINT, MANIFEST, RECORDS
from tests.unit.audit.bundle.forgery import a_log, pinned, write

OTHER = b"M" * 16


def pin(folder, log_id=b"L" * 16, tenant_uid="a"):
    """Pin a log's keys as `export` does."""
    keys = pinned(log_id)
    path = folder / "pins" / f"{tenant_uid}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps(
            {
                "tenant_uid": tenant_uid,
                "log_keys": [str(key) for key in keys.log],
                "manifest_keys": [str(key) for key in keys.manifest],
            }
        )
    )
    return path


@pytest.fixture
def bundle(tmp_path):
    return write(tmp_path / "bundle", a_log("one", "two", "two!"))


def change_a_word(bundle):
    path = bundle / RECORDS
    path.write_bytes(path.read_bytes().replace(b'"text":"two"', b'"text":"ten"'))


def test_pinned_keys_are_found_by_the_logs_origin(shell, bundle, tmp_path):
    pin(tmp_path / "state", OTHER, "0-other")
    mine = pin(tmp_path / "state")
    (tmp_path / "state" / "pins" / "1-broken.json").write_text("{")
    result = shell("audit", "verify", str(bundle))
    assert result.exit_code == 0, result.output
    assert f"Checked with the keys pinned in {mine}." in result.stderr


@pytest.mark.parametrize("lost", [CHECKPOINT, MANIFEST])
def test_pinned_keys_are_found_when_one_of_two_files_is_gone(shell, bundle, tmp_path, lost):
    pin(tmp_path / "state")
    (bundle / lost).unlink()
    result = shell("audit", "verify", str(bundle))
    assert result.exit_code == 1
    assert f"{lost}: is missing or not a plain file" in result.stderr


def test_a_state_directory_may_be_named_and_keys_go_before_it(shell, bundle, tmp_path):
    pin(tmp_path / "state", OTHER)
    elsewhere = pin(tmp_path / "elsewhere")
    assert shell("audit", "verify", str(bundle)).exit_code == 2
    assert shell("audit", "verify", str(bundle), "--state-dir", str(tmp_path / "elsewhere")).exit_code == 0
    assert shell("audit", "verify", str(bundle), "--keys", str(elsewhere)).exit_code == 0
    foreign = pin(tmp_path / "third", OTHER)
    both = ("--state-dir", str(tmp_path / "elsewhere"), "--keys", str(foreign))
    assert shell("audit", "verify", str(bundle), *both).exit_code == 1


def test_without_pinned_keys_nothing_is_checked_and_the_log_is_named(shell, bundle, tmp_path):
    result = shell("audit", "verify", str(bundle))
    assert result.exit_code == 2
    assert f"holds no keys for the log tenantry/audit/{(b'L' * 16).hex()}." in result.stderr
    for name in (CHECKPOINT, MANIFEST):
        (bundle / name).write_bytes(b"\xff")
    pin(tmp_path / "state")
    result = shell("audit", "verify", str(bundle))
    assert result.exit_code == 2
    assert "neither checkpoint nor manifest.json says which log it is of" in result.stderr


def test_keys_that_come_with_a_bundle_are_not_looked_for(shell, bundle, tmp_path):
    keys = pin(tmp_path / "state").read_bytes()
    (tmp_path / "state" / "pins" / "a.json").unlink()
    for name in ("a.json", "pins.json"):
        (bundle / name).write_bytes(keys)
    (bundle / "pins").mkdir()
    (bundle / "pins" / "a.json").write_bytes(keys)
    assert shell("audit", "verify", str(bundle)).exit_code == 2


def test_the_cause_comes_first_then_a_verdict_and_the_rest_only_when_asked(shell, bundle, tmp_path):
    pin(tmp_path / "state")
    change_a_word(bundle)
    result = shell("audit", "verify", str(bundle))
    assert result.exit_code == 1
    first, cause, verdict, *_ = result.stderr.splitlines()
    assert first == f"{bundle}: damaged."
    assert cause == "  records.jsonl: line 4 shows another prompt than the entry committed to"
    assert verdict.startswith(
        "records.jsonl changed after the export: the signed manifest lists other bytes."
    )
    assert "is not the file the manifest lists" not in result.stderr
    assert "1 more finding beside it: see --all." in result.stderr
    everything = shell("audit", "verify", str(bundle), "--all")
    assert "  records.jsonl: is not the file the manifest lists" in everything.stderr
    assert "see --all" not in everything.stderr
    report = json.loads(shell("audit", "verify", str(bundle), "--json").stdout)
    assert [damage["is_cause"] for damage in report["damages"]] == [True, False]
    assert report["verdict"] == verdict


def test_leftovers_are_named_and_do_no_harm(shell, bundle, tmp_path):
    pin(tmp_path / "state")
    (bundle / ".DS_Store").write_bytes(b"x")
    result = shell("audit", "verify", str(bundle))
    assert result.exit_code == 0
    assert "Ignored, and no part of the bundle: .DS_Store." in result.stderr
    assert json.loads(shell("audit", "verify", str(bundle), "--json").stdout)["ignored"] == [".DS_Store"]
