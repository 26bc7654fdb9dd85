"""Tenant documents that are not right: everything that is wrong is named at once, and nothing is sent."""

from __future__ import annotations

import json

import pytest

GOOD = "tenant: acme\nconfig:\n  models: [{alias: a, base_model: models/m}]\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tenants").mkdir()
    return tmp_path / "tenants"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("config: {}", "tenant: is missing"),
        ("tenant: acme", "config: is missing"),
        ("tenant: acme\nconfig: x", 'config: is "x", not a mapping of fields'),
        ("tenant: Acme\nconfig: {}", "tenant: is not a tenant's name"),
        ("tenant: ../acme\nconfig: {}", "tenant: is not a tenant's name"),
        ("tenant: 7\nconfig: {}", "tenant: is not a tenant's name"),
        ("tenant: acme\nconfig: {modles: []}", "config.modles: is not a field; did you mean models?"),
        (
            "tenant: acme\nconfig: {models: [{alias: a}, {bse_model: x}]}",
            "config.models[1].bse_model: is not a field; did you mean base_model?",
        ),
        ("tenant: acme\nconfig: {}\nstate: TENANT_STATE_ACTIVE", "state: is not a field"),
        ("name: tenants/acme\nconfig: {}", "name: is not a field"),
        (
            "tenant: acme\nconfig: {systemPrompt: x}",
            "config.systemPrompt: is not a field; did you mean system_prompt?",
        ),
        ("tenant: acme\nconfig: {weight: heavy}", "weight"),
        (
            "tenant: acme\nconfig: {weight: 1, weight: 2}",
            "line 2, column 21: the field weight is there twice",
        ),
        ("tenant: acme\nconfig: {weight: 5.5}", "config.weight: is 5.5, not a whole number"),
        (
            "tenant: acme\nconfig: {weight: 3000000000}",
            "config.weight: is 3000000000, not -2147483648 to 2147483647",
        ),
        ("tenant: acme\nconfig: {weight: on}", "config.weight: is true, not a whole number"),
        ("tenant: acme\nconfig: {quotas: {}}", "config.quotas: is a mapping, not a list"),
        ("tenant: acme\nconfig: {quotas: [1]}", "config.quotas[0]: is 1, not a mapping of fields"),
        ("tenant: acme\nconfig: {limits: {requests_per_second: 'NaN'}}", 'is "NaN", not a finite number'),
        ("tenant: acme\nconfig: {parameter_defaults: {top_p: 1.0e+39}}", "is 1e+39, more than fits"),
        ("tenant: acme\nconfig: {deadlines: {max_timeout: 30}}", "is not a duration, for example 30s"),
        ("tenant: acme\nconfig: {system_prompt: 7}", "is 7, not a text; put it in quotes"),
        (
            "tenant: acme\nconfig: {audit_policy: batch}",
            'is "batch", not one of AUDIT_POLICY_BATCH, AUDIT_POLICY_BLOCKING, AUDIT_POLICY_BLOCKING_STRICT; did',
        ),
        (
            "tenant: acme\nconfig: {audit_policy: blocking-strict}",
            "did you mean AUDIT_POLICY_BLOCKING_STRICT?",
        ),
        (
            "tenant: acme\nconfig: {isolation_tier: ISOLATION_TIER_SHARD}",
            "did you mean ISOLATION_TIER_SHARED?",
        ),
        ("tenant: acme\nconfig: {guardrails: [{stage: 9}]}", "config.guardrails[0].stage: is 9, not one of"),
        ("- tenant", "no mapping"),
        ("tenant: [", "is not YAML"),
    ],
)
def test_a_wrong_document_is_named_with_the_place(shell, admin, folder, text, complaint):
    (folder / "acme.yaml").write_text(text)
    result = shell("tenant", "apply", "-f", str(folder), "--yes")
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert str(folder / "acme.yaml") in result.stderr
    assert not admin.changes


def test_all_files_are_read_before_anything_is_said(shell, admin, folder):
    (folder / "a.yaml").write_text("tenant: a\nconfig: {one: 1, two: 2}")
    (folder / "b.yml").write_text("tenant: b\nconfig: {three: 3}")
    (folder / "c.yaml").write_text(GOOD)
    (folder / ".d.yaml").write_text("not: read")
    (folder / "e.txt").write_text("not: read")
    failure = json.loads(shell("tenant", "apply", "-f", str(folder), "--yes", "--json").stderr)["error"]
    assert [violation["field"] for violation in failure["violations"]] == [
        f"{folder}/a.yaml: config.one",
        f"{folder}/a.yaml: config.two",
        f"{folder}/b.yml: config.three",
    ]
    assert not admin.changes


def test_two_documents_for_one_tenant_are_refused(shell, admin, folder):
    (folder / "a.yaml").write_text(GOOD)
    (folder / "b.yaml").write_text("---\n" + GOOD.replace("acme", "globex") + "---\n" + GOOD)
    result = shell("tenant", "apply", "-f", str(folder), "--yes")
    assert result.exit_code == 2
    assert f"{folder}/b.yaml#2: describes acme, as {folder}/a.yaml does" in result.stderr
    assert not admin.changes


@pytest.mark.parametrize("prune", [(), ("--prune",)])
def test_a_directory_without_documents_is_a_mistake_not_an_empty_mesh(shell, admin, folder, prune):
    admin.add_tenant("acme")
    result = shell("tenant", "apply", "-f", str(folder), "--yes", *prune)
    assert result.exit_code == 2
    assert "describes no tenant" in result.stderr
    (folder / "empty.yaml").write_text("# nothing yet\n")
    assert shell("tenant", "apply", "-f", str(folder), "--yes", *prune).exit_code == 2
    assert "tenants/acme" in admin.tenants


def test_a_missing_file_is_named(shell, admin, folder):
    result = shell("tenant", "apply", "-f", str(folder / "none.yaml"))
    assert result.exit_code == 2
    assert "none.yaml: No such file" in result.stderr
