"""`tenantry tenant export`: one document a tenant, the same bytes every time, and nothing lost on the way back."""

from __future__ import annotations

import json
import stat

import pytest
import yaml  # type: ignore[import-untyped]  # the wheel carries no types
from hypothesis import example, given
from hypothesis import strategies as st
from tenantry.config.v1.tenant_pb2 import AuditPolicy, Tenant, TenantConfig

from services.cli.declarative.declared import declared_part, declared_plain, read_declared
from services.cli.documents import to_yaml
from services.common.command_errors import CommandError


@pytest.fixture
def filled(admin):
    tenant = admin.add_tenant("acme", display_name="Acme")
    config = tenant.config
    config.system_prompt = "one\ntwo\n"
    config.audit_policy = AuditPolicy.AUDIT_POLICY_BATCH
    config.parameter_defaults.temperature = 0.7
    config.limits.tokens_per_minute = 1 << 40
    config.deadlines.max_timeout.FromMilliseconds(1500)
    admin.add_tenant("globex")
    return admin


def test_a_document_holds_what_people_decide_and_nothing_else(shell, filled, tmp_path):
    result = shell("tenant", "export", "-o", str(tmp_path / "tenants"))
    assert result.stdout == f"2 tenants in {tmp_path / 'tenants'}, 2 of the files new or changed.\n"
    file = tmp_path / "tenants" / "acme.yaml"
    assert file.read_text() == (
        "tenant: acme\n"
        "display_name: Acme\n"
        "config:\n"
        "  models:\n"
        "  - alias: smollm2\n"
        "    base_model: models/smollm2\n"
        "  system_prompt: |\n"
        "    one\n"
        "    two\n"
        "  parameter_defaults:\n"
        "    temperature: 0.7\n"
        "  limits:\n"
        "    tokens_per_minute: 1099511627776\n"
        "  audit_policy: AUDIT_POLICY_BATCH\n"
        "  deadlines:\n"
        "    max_timeout: 1.500s\n"
    )
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_second_export_gives_the_same_bytes(shell, filled, tmp_path):
    folder = tmp_path / "tenants"
    shell("tenant", "export", "-o", str(folder))
    first = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir()}
    assert set(first) == {"acme.yaml", "globex.yaml"}
    result = shell("tenant", "export", "-o", str(folder))
    assert "0 of the files new or changed" in result.stdout
    assert {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir()} == first


def test_stdout_takes_several_and_apply_takes_stdin(shell, filled):
    both = shell("tenant", "export").stdout
    assert [document["tenant"] for document in yaml.safe_load_all(both)] == ["acme", "globex"]
    assert "Nothing to do: 2 tenants" in shell("tenant", "apply", "-f", "-", stdin=both).stdout
    records = [json.loads(line) for line in shell("tenant", "export", "--json", "globex").stdout.splitlines()]
    assert [record["tenant"] for record in records] == ["globex"]


def test_a_file_of_a_tenant_that_is_gone_is_named_and_left_alone(shell, filled, tmp_path):
    shell("tenant", "export", "-o", str(tmp_path / "tenants"))
    del filled.tenants["tenants/globex"]
    result = shell("tenant", "export", "-o", str(tmp_path / "tenants"))
    assert "globex.yaml describes no tenant of this mesh" in result.stderr
    assert (tmp_path / "tenants" / "globex.yaml").exists()
    only_one = shell("tenant", "export", "acme", "-o", str(tmp_path / "tenants"))
    assert "describes no tenant" not in only_one.stderr


def test_a_field_this_version_does_not_know_is_not_lost_silently(shell, filled, tmp_path):
    # Field 200, varint 1: of a newer contract.
    filled.tenants["tenants/acme"].config.MergeFromString(b"\xc0\x0c\x01")
    result = shell("tenant", "export", "-o", str(tmp_path / "tenants"))
    assert result.exit_code == 1
    assert "tenants/acme has fields this version of the command does not know" in result.stderr
    assert not (tmp_path / "tenants").exists()
    with pytest.raises(CommandError):
        declared_plain(filled.tenants["tenants/acme"])


@example("\x85", 0.0)
@example("a\u2028b\n\u2029", 0.0)
@example("a\r\nb", 0.0)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), st.floats(0, 2, width=32))
def test_every_text_and_number_comes_back_as_it_was(tmp_path_factory, text, number):
    tenant = Tenant(name="tenants/acme", config=TenantConfig(system_prompt=text), display_name=text)
    tenant.config.parameter_defaults.temperature = number
    tenant.config.guardrails.add(rule_id="r", pattern=text, replacement=text)
    file = tmp_path_factory.mktemp("roundtrip") / "acme.yaml"
    file.write_bytes(to_yaml(declared_plain(tenant)).encode())
    [back] = read_declared(file)
    assert back.tenant == declared_part(tenant)
