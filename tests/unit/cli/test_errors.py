"""Where the mesh is found, with which key it is called, and how a command ends when it cannot be."""

from __future__ import annotations

import datetime as dt
import errno
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from services.cli.clients.listener import Obstacle, UnreachableError, typed_errors
from services.cli.settings import CliSettings
from services.common.errors import FailedPreconditionError, InternalError, PermissionDeniedError, Reason
from services.local.profile import load_endpoints


def test_no_mesh_says_how_to_start_one(shell):
    result = shell("tenant", "list")
    assert result.exit_code == 1
    assert "Error: no mesh is running" in result.stderr
    assert "make up" in result.stderr
    assert result.stdout == ""


def test_a_mesh_that_stopped_says_how_to_start_it(shell, mesh, tmp_path):
    endpoints = mesh.endpoints.model_copy(update={"operations_address": "127.0.0.1:1"})
    endpoints.save(tmp_path / "state")
    result = shell("tenant", "list")
    assert result.exit_code == 1
    assert "no mesh answers at 127.0.0.1:1" in result.stderr
    assert "make up" in result.stderr
    assert json.loads(shell("tenant", "list", "--json").stderr)["error"]["code"] == "UNAVAILABLE"


def test_damaged_endpoints_are_named(shell, tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "endpoints.json").write_text('{"tenant_address": 1}')
    result = shell("tenant", "list")
    assert result.exit_code == 1
    assert "endpoints.json is damaged" in result.stderr


def test_published_endpoints_are_private_and_read_back(mesh):
    path = mesh.state_dir / "endpoints.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_endpoints(mesh.state_dir) == mesh.endpoints


def test_options_win_over_the_environment_and_that_over_the_local_mesh(shell, mesh, tmp_path):
    wrong = tmp_path / "wrong.key"
    wrong.write_text("wrong\n")
    right = mesh.endpoints.operator_key_path
    assert shell("tenant", "list").exit_code == 0
    shell.environment["TENANTRY_OPERATOR_KEY_FILE"] = str(wrong)
    assert shell("tenant", "list").exit_code == 1
    assert shell("tenant", "list", "--key-file", str(right)).exit_code == 0
    shell.environment["TENANTRY_OPERATIONS_ADDRESS"] = "127.0.0.1:1"
    assert shell("tenant", "list", "--key-file", str(right)).exit_code == 1
    arguments = ("tenant", "list", "--key-file", str(right), "--address", mesh.endpoints.operations_address)
    assert shell(*arguments).exit_code == 0


def test_a_key_can_come_from_stdin(shell, mesh):
    assert shell("tenant", "list", "--key-file", "-", stdin="operator-key\n").exit_code == 0


@pytest.mark.parametrize("content", [b"", b"two words", b"\xff\xfe", b"x" * 5000])
def test_a_file_that_holds_no_key_is_named_but_not_shown(shell, mesh, tmp_path, content):
    file = tmp_path / "bad.key"
    file.write_bytes(content)
    result = shell("tenant", "list", "--key-file", str(file))
    assert result.exit_code == 2
    assert re.search("does not hold a|more than the 4096 bytes", result.stderr)
    assert "two words" not in result.output


def test_a_refused_key_says_which_kind_is_needed(shell, mesh, tmp_path):
    file = tmp_path / "wrong.key"
    file.write_text("some-other-key")
    result = shell("chat", "Q", "--key-file", str(file))
    assert result.exit_code == 1
    assert "tenantry key create" in result.stderr
    assert "some-other-key" not in result.output


def test_several_tenants_must_be_chosen_from(shell, mesh):
    more = mesh.endpoints.model_copy(update={"keys": {"acme": mesh.endpoints.keys["acme"]} | {"globex": "x"}})
    more.save(mesh.state_dir)
    result = shell("chat", "Q")
    assert result.exit_code == 2
    assert "acme, globex" in result.stderr
    assert shell("chat", "Q", "--tenant", "acme").exit_code == 0
    assert "tenantry key create initech" in shell("chat", "Q", "-t", "initech").stderr


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_ends_with_what_to_do_next(shell, admin, reason):
    admin.error = PermissionDeniedError("because", reason=reason)
    result = shell("tenant", "list")
    assert result.exit_code == 1
    said = result.stderr.splitlines()
    assert said[0] == "Error: because."
    assert len(said) == 2


@pytest.mark.parametrize("reason", list(Reason))
def test_every_failure_shows_the_request_id_to_people_and_to_machines(shell, admin, reason):
    admin.error = PermissionDeniedError("because", reason=reason)
    admin.error.request_id = "7f3a9c"
    assert shell("tenant", "list").stderr.splitlines()[-1] == "Request id: 7f3a9c"
    assert json.loads(shell("tenant", "list", "--json").stderr)["error"]["request_id"] == "7f3a9c"


def test_a_failure_without_a_request_id_sends_no_reader_to_the_logs(shell, admin):
    admin.error = InternalError()
    assert shell("tenant", "list").stderr == "Error: internal error.\nAsk those who run the mesh.\n"
    admin.error.request_id = "7f3a9c"
    assert "Look for the request id in the logs" in shell("tenant", "list").stderr


@pytest.mark.parametrize(
    ("message", "hint"),
    [
        ("a guardrail denies this", "It is the rule no-secrets. Change what is asked."),
        ("the tenant's guardrail no-secrets denies this", "Change what is asked."),
    ],
)
def test_a_guardrails_refusal_names_the_rule_once(shell, inference, message, hint):
    inference.error = FailedPreconditionError(
        message, reason=Reason.GUARDRAIL_DENIED, metadata={"rule_id": "no-secrets"}
    )
    assert shell("chat", "Q").stderr.splitlines() == [f"Error: {message}.", hint]


def test_unknown_commands_and_options_are_usage_errors(shell):
    assert shell("tennant").exit_code == 2
    assert "tenant" in shell("tennant").stderr
    assert shell("tenant", "list", "--nope").exit_code == 2
    assert shell("tenant", "update", "acme").exit_code == 2


def test_the_wrong_certificate_is_told_apart_from_silence(shell, mesh, tmp_path):
    ours, theirs = _certificate(), _certificate()
    server = grpc.server(ThreadPoolExecutor(max_workers=1))
    credentials = grpc.ssl_server_credentials([ours])
    address = f"localhost:{server.add_secure_port('localhost:0', credentials)}"
    server.start()
    (tmp_path / "theirs.pem").write_bytes(theirs[1])
    try:
        result = shell("tenant", "list", "--address", address, "--ca-file", str(tmp_path / "theirs.pem"))
        (tmp_path / "ours.pem").write_bytes(ours[1])
        trusted = shell("tenant", "list", "--address", address, "--ca-file", str(tmp_path / "ours.pem"))
    finally:
        server.stop(grace=None)
    assert result.exit_code == 1
    assert "a certificate that the CA file does not vouch for" in result.stderr
    # The handshake succeeds; that no service is behind it is another matter.
    assert "does not offer this" in trusted.stderr


def _certificate() -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return pem, certificate.public_bytes(serialization.Encoding.PEM)


def test_help_imports_neither_grpc_nor_settings():
    program = (
        "import sys; from services.cli.main import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "loaded = {'grpc', 'pydantic_settings', 'google.protobuf'} & set(sys.modules)\n"
        "sys.exit(f'--help imported {loaded}' if loaded else 0)"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=30
    )
    assert finished.returncode == 0, finished.stderr


def test_state_is_where_the_xdg_specification_says(monkeypatch, tmp_path):
    for name in ("TENANTRY_STATE_DIR", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert CliSettings().state_path == tmp_path / ".local/state/tenantry"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert CliSettings().state_path == tmp_path / ".local/state/tenantry"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "x"))
    assert CliSettings().state_path == tmp_path / "x/tenantry"
    monkeypatch.setenv("TENANTRY_STATE_DIR", str(tmp_path / "y"))
    assert CliSettings().state_path == tmp_path / "y"


def test_an_address_of_something_else_is_told_apart_from_silence(shell, mesh):
    server = grpc.server(ThreadPoolExecutor(max_workers=1))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        result = shell("tenant", "list", "--address", address)
    finally:
        server.stop(grace=None)
    assert result.exit_code == 1
    assert f"the server at {address} does not offer this" in result.stderr


def test_the_edge_without_its_service_is_told_apart_from_silence():
    details = "upstream connect error or disconnect/reset before headers. reset reason: connection failure"
    with pytest.raises(UnreachableError) as raised, typed_errors("edge:1"):
        raise grpc.aio.AioRpcError(
            grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), details=details
        )
    assert raised.value.obstacle is Obstacle.NOTHING_BEHIND


def test_the_version_is_that_of_the_package(shell):
    assert shell("--version").stdout == f"tenantry {metadata.version('tenantry')}\n"


def test_what_the_system_refuses_is_no_traceback(shell, mesh, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "x"))

    monkeypatch.setattr("services.cli.commands.tenant_documents.read_declared", full)
    result = shell("tenant", "apply", "-f", str(tmp_path))
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        f"Error: the system did not do what it was asked: {tmp_path / 'x'}: No space left on device.",
        "Put that right, then repeat.",
    ]


def test_a_reader_that_has_seen_enough_is_no_failure(mesh):
    program = [sys.executable, "-c", "from services.cli.main import main; main()", "tenant", "list"]
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "TENANTRY_STATE_DIR": str(mesh.state_dir)}
    mesh.admin.add_tenant("acme")
    finished = subprocess.run(
        program, check=False, stdout=writing, stderr=subprocess.PIPE, env=environment, text=True, timeout=60
    )
    os.close(writing)
    assert finished.stderr == ""
