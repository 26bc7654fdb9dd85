"""`tenantry tenant|key|adapter|model|pool`: what is sent, what is shown, what is kept safe."""

from __future__ import annotations

import json
import stat

import pytest
import yaml  # type: ignore[import-untyped]  # the wheel carries no types
from tenantry.config.v1.credential_pb2 import OperatorRole
from tenantry.config.v1.pool_pb2 import BaseModel
from tenantry.config.v1.router_status_pb2 import RouterState
from tenantry.config.v1.tenant_pb2 import AuditPolicy, IsolationTier

from services.cli.clients import admin_catalog
from services.cli.commands.adapter import ADAPTER_FILES
from services.common.errors import FieldViolation, InvalidArgumentError, Reason, UnavailableError


def test_a_tenant_is_made_of_flags(shell, admin):
    result = shell(
        "tenant", "create", "acme", "--base-model", "smollm2", "--alias", "fast", "--tier", "shared",
        "--audit-policy", "blocking-strict", "--rate", "5", "--system-prompt", "Be brief.",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    config = admin.tenants["tenants/acme"].config
    assert (config.models[0].alias, config.models[0].base_model) == ("fast", "models/smollm2")
    assert config.isolation_tier == IsolationTier.ISOLATION_TIER_SHARED
    assert config.audit_policy == AuditPolicy.AUDIT_POLICY_BLOCKING_STRICT
    assert config.limits.requests_per_second == 5
    assert not config.limits.HasField("tokens_per_minute")
    assert yaml.safe_load(result.stdout)["config_version"] == 1
    assert "Next: tenantry key create acme --out acme.key" in result.stderr


def test_a_tenant_without_a_model_is_refused_before_anything_is_sent(shell, admin):
    assert shell("tenant", "create", "acme").exit_code == 2
    assert not admin.tenants


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("acme", 1, "a tenant of this name exists"),
        ("Acme_1", 2, "Acme_1 cannot be a tenant's name: 1 to 63 of a-z, 0-9 and -"),
        ("-acme", 2, "cannot be a tenant's name"),
        ("new", 2, "a tenant needs a model"),
    ],
)
def test_a_refused_creation_names_the_reason_that_no_option_mends_first(shell, admin, name, status, reason):
    admin.add_tenant("acme")
    result = shell("tenant", "create", "--", name)
    assert result.exit_code == status
    assert reason in result.stderr
    assert list(admin.tenants) == ["tenants/acme"]


def test_a_dry_run_changes_nothing(shell, admin):
    assert shell("tenant", "create", "acme", "--base-model", "smollm2", "--dry-run").exit_code == 0
    assert not admin.tenants
    admin.add_tenant("acme")
    result = shell("tenant", "update", "acme", "--system-prompt", "x", "--dry-run")
    assert result.stdout == "tenants/acme: valid; nothing was changed.\n"
    assert admin.updates[-1].validate_only
    assert not admin.tenants["tenants/acme"].config.system_prompt


def test_what_get_prints_update_takes(shell, admin, tmp_path):
    admin.add_tenant("acme").config.system_prompt = "one\ntwo"
    document = shell("tenant", "get", "acme").stdout
    assert "system_prompt: |-\n    one\n    two\n" in document
    file = tmp_path / "acme.yaml"
    file.write_text(document.replace("two", "three").replace("config:", "config:\n  weight: 7"))
    result = shell("tenant", "update", "acme", "--file", str(file))
    assert result.exit_code == 0, result.output
    assert admin.tenants["tenants/acme"].config.system_prompt == "one\nthree"
    assert admin.tenants["tenants/acme"].config.weight == 7


def test_what_export_writes_update_takes(shell, admin, tmp_path):
    tenant = admin.add_tenant("acme", display_name="Acme")
    tenant.config.limits.concurrent_requests = 3
    shell("tenant", "export", "acme", "-o", str(tmp_path))
    file = tmp_path / "acme.yaml"
    assert "nothing to change" in shell("tenant", "update", "acme", "--file", str(file)).stdout
    file.write_text(file.read_text().replace("concurrent_requests: 3", "concurrent_requests: 4"))
    assert shell("tenant", "update", "acme", "--file", str(file)).exit_code == 0
    after = admin.tenants["tenants/acme"]
    assert (after.display_name, after.config.limits.concurrent_requests) == ("Acme", 4)
    other = shell("tenant", "update", "globex", "--file", str(file))
    assert other.exit_code == 1
    admin.add_tenant("globex")
    other = shell("tenant", "update", "globex", "--file", str(file))
    assert other.exit_code == 2
    assert "the file describes tenants/acme, not tenants/globex" in other.stderr
    file.write_text("tenant: acme\nconfg: {}\n")
    wrong = shell("tenant", "update", "acme", "--file", str(file))
    assert wrong.exit_code == 2
    assert "confg: is not a field; did you mean config?" in wrong.stderr


def test_get_shows_what_is_set_and_what_is_in_force(shell, admin, tmp_path):
    tenant = admin.add_tenant("acme")
    tenant.config.limits.request_burst = 5
    document = shell("tenant", "get", "acme").stdout
    for line in (
        "config:",
        "  # default_model: smollm2  # default: the first alias in `models`",
        "    # adapter: (none; the base model answers as it is)",
        "    # system_prompt: ''  # default: the tenant's `system_prompt`",
        "  limits:",
        "    # requests_per_second: 100  # default",
        "    request_burst: 5",
        "    # tokens_per_minute: (no limit)",
        "  # deadlines:",
        "  #   default_timeout: 60s  # default",
        "  # weight: 100  # default",
        "  # quotas: []  # default",
        "  # audit_policy: AUDIT_POLICY_BLOCKING_STRICT  # default",
    ):
        assert f"\n{line}\n" in document
    record = json.loads(shell("tenant", "get", "acme", "--json").stdout)
    assert record == json.loads(shell("tenant", "get", "acme", "-o", "json").stdout)
    assert record["config"] == {
        "models": [{"alias": "smollm2", "base_model": "models/smollm2"}],
        "limits": {"request_burst": 5},
    }
    assert record["effective_config"]["limits"]["requests_per_second"] == 100
    assert record["effective_config"]["limits"]["request_burst"] == 5
    assert record["effective_config"]["limits"]["tokens_per_minute"] is None
    assert record["config_defaults"]["limits.requests_per_second"] == 100
    assert record["config_defaults"]["limits.tokens_per_minute"] == {"description": "no limit"}
    assert "limits.request_burst" not in record["config_defaults"]
    # What is printed, in either form, can be written back, and sets nothing that was not set.
    for name, text in (("a.yaml", document), ("a.json", json.dumps(record))):
        (tmp_path / name).write_text(text)
        result = shell("tenant", "update", "acme", "--file", str(tmp_path / name))
        assert "nothing to change" in result.stdout, result.output


def test_update_changes_what_is_given_and_nothing_else(shell, admin):
    tenant = admin.add_tenant("acme", display_name="Acme")
    tenant.config.limits.concurrent_requests = 3
    tenant.config.models[0].adapter_version = 4
    result = shell("tenant", "update", "acme", "--system-prompt", "Be calm.", "--adapter", "pirate")
    assert result.stdout == "tenants/acme: config version 2 (was 1), sha256 020202020202.\n"
    sent = admin.updates[0]
    assert list(sent.update_mask.paths) == ["display_name", "config"]
    assert sent.tenant.etag == '"1"'
    after = admin.tenants["tenants/acme"]
    assert after.display_name == "Acme"
    assert after.config.limits.concurrent_requests == 3
    assert after.config.models[0].adapter == "pirate"
    # The old adapter's version means nothing for another one.
    assert after.config.models[0].adapter_version == 0


def test_a_change_made_meanwhile_is_not_overwritten(shell, admin):
    admin.add_tenant("acme")

    def meanwhile() -> None:
        admin.tenants["tenants/acme"].etag = '"other"'

    admin.before_update = meanwhile
    result = shell("tenant", "update", "acme", "--weight", "5")
    assert result.exit_code == 1
    assert "Another edit came first." in result.stderr
    assert not admin.tenants["tenants/acme"].config.HasField("weight")


def test_a_file_with_an_old_etag_is_refused(shell, admin, tmp_path):
    admin.add_tenant("acme")
    file = tmp_path / "acme.yaml"
    file.write_text(shell("tenant", "get", "acme").stdout)
    shell("tenant", "update", "acme", "--weight", "5")
    assert shell("tenant", "update", "acme", "--file", str(file)).exit_code == 1
    assert admin.tenants["tenants/acme"].config.weight == 5


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("config: {modles: []}", "modles"),
        ("- a list", "no mapping"),
        ("a: [", "is not YAML, line 1"),
        ("name: tenants/other", "describes tenants/other"),
        ("config: {weight: heavy}", "weight"),
    ],
)
def test_a_wrong_file_is_named_and_nothing_is_sent(shell, admin, tmp_path, text, complaint):
    admin.add_tenant("acme")
    file = tmp_path / "acme.yaml"
    file.write_text(text)
    result = shell("tenant", "update", "acme", "--file", str(file))
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert not admin.updates


def test_every_wrong_field_is_shown(shell, admin):
    admin.error = InvalidArgumentError(
        [FieldViolation("tenant.config.weight", "1 to 1000, not 0"), FieldViolation("tenant_id", "too long")]
    )
    result = shell("tenant", "create", "acme", "--base-model", "m", "--weight", "0")
    assert result.exit_code == 1
    assert "tenant.config.weight: 1 to 1000, not 0\n  tenant_id: too long\n" in result.stderr
    failure = json.loads(shell("tenant", "create", "acme", "--base-model", "m", "--json").stderr)["error"]
    assert failure["violations"][1] == {"field": "tenant_id", "description": "too long"}


def test_every_page_is_listed_aligned_or_as_lines_of_json(shell, admin):
    for tenant_id in ("a", "b", "c", "d", "e"):
        admin.add_tenant(tenant_id)
    lines = shell("tenant", "list").stdout.splitlines()
    assert lines[0].split() == ["TENANT", "STATE", "CONFIG", "TIER", "MODELS", "UPDATED"]
    assert [line.split()[0] for line in lines[1:]] == ["a", "b", "c", "d", "e"]
    assert len({line.index("active") for line in lines[1:]}) == 1
    records = [json.loads(line) for line in shell("tenant", "list", "--json").stdout.splitlines()]
    assert [record["name"] for record in records] == [f"tenants/{name}" for name in "abcde"]
    assert records[0]["config_version"] == 1


def test_a_secret_is_alone_on_stdout_or_in_a_private_file(shell, admin, tmp_path):
    assert shell("key", "create", "acme").stdout == "the.new.secret\n"
    out = tmp_path / "acme.key"
    result = shell("key", "create", "acme", "--out", str(out), "--days", "1")
    assert "the.new.secret" not in result.output
    assert out.read_text() == "the.new.secret\n"
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert shell("key", "create", "acme", "--out", str(out)).exit_code == 2
    assert (
        "the.new.secret"
        not in shell("key", "create", "acme", "--json", "--out", str(tmp_path / "other.key")).output
    )
    assert json.loads(shell("key", "create", "acme", "--json").stdout)["secret"] == "the.new.secret"


def test_keys_are_listed_with_who_issued_them_and_why_and_without_empty_columns(shell, admin):
    shell("key", "create", "acme", "--reason", "for the batch job")
    lines = shell("key", "list", "acme").stdout.splitlines()
    assert [line.strip().split(maxsplit=5) for line in lines] == [
        ["KEY", "STATE", "EXPIRES", "CREATED", "BY", "REASON"],
        ["k1", "active", "2027-02-22", "2026-11-24", "ada", "for the batch job"],
    ]


def test_a_key_whose_secret_cannot_be_kept_is_revoked(shell, admin, tmp_path):
    result = shell("key", "create", "acme", "--out", str(tmp_path / "missing" / "acme.key"))
    assert result.exit_code == 1
    assert "the new key was revoked" in result.stderr
    [line] = shell("key", "list", "acme").stdout.splitlines()[1:]
    assert line.split()[:2] == ["k1", "revoked"]


def test_a_key_that_can_neither_be_kept_nor_revoked_is_named(shell, admin, tmp_path):
    def no_more_changes(key):
        admin.error = UnavailableError("etcd cannot be reached", reason=Reason.STORE_UNAVAILABLE)
        return "the.new.secret"

    admin.secret_of = no_more_changes
    result = shell("key", "create", "acme", "--out", str(tmp_path / "missing" / "acme.key"))
    assert result.exit_code == 1
    assert "cannot write" in result.stderr
    assert "tenants/acme/keys/k1 could not be revoked: etcd cannot be reached" in result.stderr


def test_a_new_key_and_a_new_adapter_can_be_waited_for(shell, admin, tmp_path):
    admin.add_router("r1", RouterState.ROUTER_STATE_CURRENT)
    result = shell("key", "create", "acme", "--wait")
    assert result.stdout.splitlines()[0] == "the.new.secret"
    assert admin.waits == [admin.keys["tenants/acme/keys/k1"].revision]
    for name in ADAPTER_FILES:
        (tmp_path / name).write_bytes(b"x")
    shell("adapter", "register", "acme", "pirate", str(tmp_path), "--base-model", "smollm2", "--wait")
    assert admin.waits[1:] == [0]


def test_an_operator_key_has_a_role(shell, admin):
    assert shell("key", "create", "ada", "--operator").exit_code == 2
    assert shell("key", "create", "acme", "--role", "platform-admin").exit_code == 2
    shell("key", "create", "ada", "--operator", "--role", "tenant-admin", "--role-tenant", "acme")
    key = admin.keys["operators/ada/keys/k1"]
    assert key.role == OperatorRole.OPERATOR_ROLE_TENANT_ADMIN
    assert key.role_tenant == "tenants/acme"
    assert "tenant-admin of acme" in shell("key", "list", "ada", "--operator").stdout


def test_a_key_is_revoked_by_its_id(shell, admin):
    shell("key", "create", "acme")
    assert "tenants/acme/keys/k1: revoked" in shell("key", "revoke", "acme", "k1").stdout
    assert shell("key", "revoke", "acme", "k9").exit_code == 1


def test_an_adapter_is_sent_whole_in_bounded_pieces(shell, admin, tmp_path, monkeypatch):
    monkeypatch.setattr(admin_catalog, "CHUNK_BYTES", 1000)
    weights = bytes(range(256)) * 40
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(weights)
    arguments = ("adapter", "register", "acme", "pirate", str(tmp_path), "--base-model", "smollm2")
    assert shell(*arguments).stdout == "tenants/acme/adapters/pirate: version 1 registered.\n"
    assert shell(*arguments).stdout == "tenants/acme/adapters/pirate: version 2 registered.\n"
    assert admin.uploads == {"adapter_config.json": b"{}", "adapter_model.safetensors": weights}
    row = shell("adapter", "list", "acme").stdout.splitlines()[1].split()
    assert row[:6] == ["pirate", "v2", "smollm2", "8", "1.4", "MiB"]
    assert yaml.safe_load(shell("adapter", "get", "acme", "pirate").stdout)["versions"][0]["rank"] == 8


def test_a_directory_that_is_no_adapter_is_named(shell, admin, tmp_path):
    result = shell("adapter", "register", "acme", "pirate", str(tmp_path), "--base-model", "smollm2")
    assert result.exit_code == 2
    assert "adapter_config.json: No such file" in result.stderr


def test_models_and_pools_come_from_files(shell, admin, tmp_path):
    file = tmp_path / "file.yaml"
    file.write_text("context_tokens: 2048\narchitecture: {layers: 30}\n")
    assert shell("model", "create", "smollm2", "--file", str(file)).exit_code == 0
    assert "models/smollm2" in shell("model", "get", "smollm2").stdout
    assert shell("model", "list").stdout.splitlines()[1].split()[:3] == ["smollm2", "2048", "30"]
    file.write_text(
        "base_model: models/smollm2\ndialect: DIALECT_TRTLLM_ENGINE\nendpoints: [{target: 'unix:/x'}]\n"
    )
    assert shell("pool", "create", "main", "--file", str(file)).exit_code == 0
    assert "unix:/x" in shell("pool", "get", "main").stdout
    assert shell("pool", "list").stdout.splitlines()[1].split()[:4] == [
        "main",
        "smollm2",
        "trtllm-engine",
        "1",
    ]


def test_a_base_model_is_deleted_by_name_with_a_reason(shell, admin):
    admin.models["models/old"] = BaseModel(name="models/old")
    result = shell("model", "delete", "old", "--reason", "retired")
    assert (result.exit_code, result.stdout) == (0, "models/old: deleted.\n")
    assert admin.models == {}
    assert admin.changes[-1] == ("DeleteBaseModel", "models/old", "retired")
    assert shell("model", "delete", "old", "--json").exit_code == 1
