"""Issuing a grant reads one key and makes none."""

from __future__ import annotations

import sys

import pytest

from services.audit.keys.signing import load_signing_keys
from services.audit.rpc import issue_grant


def issue(monkeypatch, state) -> None:
    monkeypatch.setattr(sys, "argv", ["issue_grant", "--state-dir", str(state), "--tenant-uid", "a"])
    issue_grant.main()


def test_no_key_comes_into_being_where_one_is_missing(tmp_path, monkeypatch, capsys):
    load_signing_keys(tmp_path / "keys")
    for name in ("log.ed25519", "manifest.ed25519"):
        (tmp_path / "keys" / name).unlink()
    issue(monkeypatch, tmp_path)
    assert capsys.readouterr().out.count(".") == 2  # a signed token
    assert [path.name for path in (tmp_path / "keys").iterdir()] == ["grants.pem"]


def test_where_no_service_has_run_nothing_is_made(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="not the state of an audit service"):
        issue(monkeypatch, tmp_path / "state")
    assert list(tmp_path.iterdir()) == []
