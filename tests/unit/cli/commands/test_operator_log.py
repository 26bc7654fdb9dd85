"""`tenantry operator log`: nothing is shown that does not verify, and nothing is read without a grant."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import tempfile

import pytest
import rfc8785
from tenantry.audit.v1.audit_review_service_pb2 import ExportLogResponse

from services.audit.keys.envelope import DataKey, salted
from services.audit.proofs.entry import EntryKind
from services.cli.commands import audit as audit_command
from services.cli.commands import operator as operator_command
from services.cli.review import fetch
from services.cli.review.operator_edits import Gap
from tests.unit.audit.bundle.forgery import (
    DEK_ID,
    LOG_ID,
    Opened,
    a_log,
    log_signer,
    manifest_signer,
    record_id,
    sealed,
    write,
)

HOUR_NS = 3_600 * 10**9
HOSTILE = "because\n2026-12-31 00:00:00Z  root  \x9b\u202e"


def a_grant(uid: str) -> str:
    payload = base64.urlsafe_b64encode(json.dumps({"sub": uid}).encode()).decode().rstrip("=")
    return f"e30.{payload}.c2ln"


def admin_entry(
    index: int, kind: EntryKind, name: str, meta: dict, reason: str | None = None, of: str = ""
) -> Opened:
    like = sealed(
        index, kind, name, time_ns=index * HOUR_NS, admit_record_id=record_id(of) if of else bytes(16)
    )
    prompt = rfc8785.dumps({"reason": reason}) if reason is not None else None
    sections = salted((rfc8785.dumps(meta), prompt, None), os.urandom)
    entry, _ = DataKey(b"k" * 32, LOG_ID, DEK_ID).seal(like.entry.header, sections)
    return Opened(entry, sections)


def an_operator_log() -> list[Opened]:
    suspended = {
        "method": "SuspendTenant",
        "resource": "tenants/acme",
        "operator": "ada",
        "role": "platform-admin",
    }
    issued = {
        "method": "CreateKey",
        "resource": "tenants/globex",
        "operator": "bob",
        "key_id": "7d22",
        "role": "x",
    }
    intent, outcome = EntryKind.ADMIN_INTENT, EntryKind.ADMIN_OUTCOME
    return [
        *a_log(tenant_uid="operators"),
        admin_entry(2, intent, "i1", suspended, "leaked key, ticket 7"),
        admin_entry(3, outcome, "o1", {"outcome": "written", "revision": 17}, of="i1"),
        admin_entry(4, intent, "i2", issued, HOSTILE),
        admin_entry(5, outcome, "o2", {"outcome": "refused", "revision": 0}, of="i2"),
    ]


@pytest.fixture
def review(mesh, tmp_path):
    """A service that exports a real operator log; a grant for it is in `operators.grant`."""
    folder = write(tmp_path / "made", an_operator_log(), tenant_uid="operators")
    service = mesh.review
    service.grant = a_grant("operators")
    service.log_keys, service.manifest_keys = (
        [str(log_signer().verifier_key)],
        [str(manifest_signer().verifier_key)],
    )
    service.pieces = [
        ExportLogResponse(path=path.name, data=path.read_bytes(), last=True)
        for path in sorted(folder.iterdir())
    ]
    (tmp_path / "operators.grant").write_text(service.grant + "\n")
    return service


@pytest.fixture
def log(shell, tmp_path):
    return lambda *options: shell(
        "operator", "log", "--grant-file", str(tmp_path / "operators.grant"), *options
    )


def test_who_changed_what_when_and_why_is_a_row(log, review):
    result = log()
    assert result.exit_code == 0, result.output
    _, *rows = [line.split() for line in result.stdout.splitlines()]
    assert rows[0] == [
        "1970-01-01", "02:00:00Z", "ada", "SuspendTenant", "tenants/acme", "leaked", "key,", "ticket", "7",
    ]  # fmt: skip
    assert rows[1][2:5] == ["bob", "CreateKey", "tenants/globex/keys/7d22"]
    assert rows[1][-1] == "refused"
    assert review.names == ["tenants/operators/auditLog"]


def test_the_logs_id_and_that_it_was_verified_is_said(log, review):
    said = log().stderr
    assert f"2 edits of tenantry/audit/{LOG_ID.hex()}. The whole log, 6 entries, is verified." in said
    assert "pinned in" in said
    assert "pinned in" not in log().stderr


def test_a_reason_forges_no_row(log, review):
    result = log()
    assert len(result.stdout.splitlines()) == 3
    assert "\\n2026-12-31" in result.stdout
    assert "\x9b" not in result.output
    assert "\u202e" not in result.output


def test_filters_choose_and_times_bound(log, review):
    def calls(*options: str) -> list[str]:
        return [json.loads(line)["call"] for line in log(*options, "--json").stdout.splitlines()]

    assert calls() == ["SuspendTenant", "CreateKey"]
    assert calls("--by", "ada") == ["SuspendTenant"]
    assert calls("--call", "createkey") == ["CreateKey"]
    assert calls("--resource", "globex") == ["CreateKey"]
    assert calls("--resource", "tenants/acme") == ["SuspendTenant"]
    assert calls("--since", "1970-01-01T03:00") == ["CreateKey"]
    assert calls("--until", "1970-01-01T03:00") == ["SuspendTenant"]
    assert calls("--since", "1h") == []
    assert log("--since", "never").exit_code == 2


def test_programs_get_every_field_and_the_log(log, review):
    first, second = (json.loads(line) for line in log("--json").stdout.splitlines())
    assert first == {
        "log": f"tenantry/audit/{LOG_ID.hex()}",
        "index": 2,
        "time": "1970-01-01T02:00:00.000000000Z",
        "operator": "ada",
        "role": "platform-admin",
        "call": "SuspendTenant",
        "resource": "tenants/acme",
        "reason": "leaked key, ticket 7",
        "outcome": "written",
        "details": {},
        "revision": 17,
    }
    assert second["reason"] == HOSTILE
    assert second["details"] == {"key_id": "7d22"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("command", [operator_command, audit_command])
def test_a_signal_ends_an_export_and_leaves_nothing_decrypted_behind(
    shell, review, tmp_path, monkeypatch, command, number
):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    begun: list[str] = []

    async def receive(_review, _uid, folder, *_):
        folder.add("records.jsonl", b"a tenant's text", last=False)
        begun.extend(str(path) for path in tmp_path.rglob("records.jsonl"))
        os.kill(os.getpid(), number)
        await asyncio.Event().wait()

    monkeypatch.setattr(fetch, "_receive", receive)
    grant = ("--grant-file", str(tmp_path / "operators.grant"))
    named = {
        operator_command: ("operator", "log", *grant),
        audit_command: ("audit", "export", "operators", "--out", str(tmp_path / "out"), *grant),
    }
    # The run itself may have been started with SIGHUP ignored.
    inherited = signal.signal(number, signal.SIG_DFL)
    try:
        result = shell(*named[command])
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, inherited)
    assert len([path for path in begun if "made" not in path]) == 1
    assert result.exit_code == 128 + number
    assert list(temporary.iterdir()) == []
    assert [path for path in tmp_path.rglob("records.jsonl") if "made" not in str(path)] == []


def test_that_test_fails_where_a_signal_does_not_end_the_export(review, log, monkeypatch):
    async def unended(work):
        return await work

    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: received.append(number))
    real = operator_command.fetch_log

    async def fetch_log(*given):
        os.kill(os.getpid(), signal.SIGTERM)
        return await real(*given)

    monkeypatch.setattr(operator_command, "ended_by_signals", unended)
    monkeypatch.setattr(operator_command, "fetch_log", fetch_log)
    try:
        assert log().exit_code == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM]


def test_a_gap_is_counted_as_a_gap(review, log, monkeypatch):
    monkeypatch.setattr(operator_command, "read_edits", lambda _records: [Gap(3, 7, 2, "config")])
    assert "0 edits and 1 gap of tenantry/audit/" in log().stderr


@pytest.mark.parametrize("json_too", [(), ("--json",)])
def test_a_log_that_does_not_verify_is_not_shown(log, review, json_too):
    for piece in review.pieces:
        if piece.path == "records.jsonl":
            piece.data = piece.data.replace(b"ticket 7", b"ticket 8")
    result = log(*json_too)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "does not verify; nothing of it is shown" in result.stderr


def test_another_log_is_not_shown(log, review, tmp_path):
    other = write(tmp_path / "other", a_log(tenant_uid="uid-acme"), tenant_uid="uid-acme")
    review.pieces = [
        ExportLogResponse(path=path.name, data=path.read_bytes(), last=True)
        for path in sorted(other.iterdir())
    ]
    result = log()
    assert result.exit_code == 1
    assert "sent the log of uid-acme" in result.stderr


def test_without_a_grant_and_away_from_the_audit_service_it_says_what_is_needed(shell, mesh, tmp_path):
    result = shell("operator", "log")
    assert result.exit_code == 2
    assert "needs a grant of the audit service" in result.stderr
    assert "tenantry audit grant operators --uid" in result.stderr
    (tmp_path / "acme.grant").write_text(a_grant("uid-acme"))
    wrong = shell("operator", "log", "--grant-file", str(tmp_path / "acme.grant"))
    assert wrong.exit_code == 2
    assert "is for a tenant's log" in wrong.stderr


def test_nothing_of_the_log_is_left_behind(log, review, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    assert log().exit_code == 0
    assert list(scratch.iterdir()) == []
