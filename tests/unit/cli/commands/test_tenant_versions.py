"""`tenantry tenant versions|diff|rollback`: who changed what and why, and the way back."""

from __future__ import annotations

import json

import pytest
from tenantry.config.v1.tenant_pb2 import TenantConfig

from services.cli.terminal.differences import difference_cells
from services.common.errors import FieldViolation
from services.config.admin.config_diff import differences


@pytest.fixture
def three_versions(shell, admin):
    admin.add_tenant("acme")
    shell("tenant", "update", "acme", "--system-prompt", "Be calm.", "--reason", "launch")
    shell("tenant", "update", "acme", "--weight", "7", "--system-prompt", "Be brief.")
    return admin


def test_versions_say_who_when_and_why_newest_first(shell, three_versions):
    lines = shell("tenant", "versions", "acme").stdout.splitlines()
    assert lines[0].split("  ")[0] == "VERSION"
    assert [line.split()[0] for line in lines[1:]] == ["v3", "v2", "v1"]
    assert lines[1].split()[1] == "yes"
    assert "ada" in lines[2]
    assert lines[2].endswith("launch")
    records = [json.loads(line) for line in shell("tenant", "versions", "acme", "--json").stdout.splitlines()]
    assert [record["version"] for record in records] == [3, 2, 1]
    assert records[0]["active"] is True
    assert records[1]["reason"] == "launch"


def test_a_diff_shows_the_newest_change_or_any_two_versions(shell, three_versions):
    newest = shell("tenant", "diff", "acme")
    assert [line.split() for line in newest.stdout.splitlines()] == [
        ["FIELD", "BEFORE", "AFTER"],
        ["system_prompt", "Be", "calm.", "Be", "brief."],
        ["weight", "100", "(default)", "7"],
    ]
    assert "v2 → v3 (in force)" in newest.stderr
    assert "v1 → v3 (in force)" in shell("tenant", "diff", "acme", "v1").stderr
    assert "v1 → v2\n" in shell("tenant", "diff", "acme", "1", "2").stderr
    records = [
        json.loads(line) for line in shell("tenant", "diff", "acme", "3", "1", "--json").stdout.splitlines()
    ]
    assert records == [
        {"field": "system_prompt", "before": "Be brief."},
        {"field": "weight", "before": 7, "after_default": "100"},
    ]
    assert "The two are equal." in shell("tenant", "diff", "acme", "3", "3").stderr
    # Colours are for terminals.
    assert "\x1b" not in newest.output


def test_a_diff_of_the_only_version_or_of_none_says_so(shell, admin):
    admin.add_tenant("acme")
    assert "one config version only" in shell("tenant", "diff", "acme").stderr
    assert shell("tenant", "diff", "acme", "zero").exit_code == 2
    missing = shell("tenant", "diff", "acme", "9")
    assert missing.exit_code == 1
    assert "tenant versions" in missing.stderr


def test_a_rollback_is_a_new_version_that_equals_an_old_one(shell, three_versions):
    result = shell("tenant", "rollback", "acme", "v2", "--reason", "too brief")
    assert result.stdout == "tenants/acme: config version 4 (was 3), equal to version 2.\n"
    tenant = three_versions.tenants["tenants/acme"]
    assert tenant.config.system_prompt == "Be calm."
    assert not tenant.config.HasField("weight")
    assert three_versions.changes[-1] == ("RollbackTenant", "tenants/acme", "too brief")
    assert shell("tenant", "versions", "acme").stdout.splitlines()[1].endswith("rollback to v2: too brief")
    again = shell("tenant", "rollback", "acme", "2")
    assert again.stdout == "tenants/acme: nothing to change; its config, version 4, equals version 2.\n"


def test_a_rollback_dry_run_changes_nothing_and_shows_the_way_to_see_it(shell, three_versions):
    result = shell("tenant", "rollback", "acme", "1", "--dry-run")
    assert result.stdout == "tenants/acme: valid; nothing was changed.\n"
    assert "tenantry tenant diff acme 3 1" in result.stderr
    assert three_versions.tenants["tenants/acme"].config_version == 3


def test_a_rollback_to_what_no_longer_fits_is_refused(shell, three_versions):
    three_versions.refused_fields = lambda _tenant: [FieldViolation("version.config.pool", "is gone")]
    result = shell("tenant", "rollback", "acme", "1")
    assert result.exit_code == 1
    assert "version.config.pool: is gone" in result.stderr


def test_a_rollback_does_not_undo_what_came_in_between(shell, three_versions):
    def meanwhile(name: str) -> None:
        three_versions.tenants[name].etag = '"other"'

    three_versions.before_change = meanwhile
    assert shell("tenant", "rollback", "acme", "1").exit_code == 1
    assert three_versions.tenants["tenants/acme"].config_version == 3


def test_two_long_texts_are_shown_around_what_differs():
    before = TenantConfig(system_prompt="a" * 200 + " calm " + "z" * 200)
    after = TenantConfig(system_prompt="a" * 200 + " brief " + "z" * 200)
    [difference] = differences(before, after)
    _, old, new = difference_cells(difference)
    assert old.text == "…" + "a" * 15 + " calm " + "z" * 15 + "…"
    assert new.text == "…" + "a" * 15 + " brief " + "z" * 15 + "…"
    # One being the beginning of the other is no reason to show nothing.
    [difference] = differences(TenantConfig(system_prompt="a" * 100), TenantConfig(system_prompt="a" * 101))
    _, old, new = difference_cells(difference)
    assert (old.text, new.text) == ("…" + "a" * 16, "…" + "a" * 17)


def test_a_value_is_shown_as_people_write_it():
    config = TenantConfig(system_prompt='say "hi"\n')
    config.guardrails.add(pattern=r"\d+")
    config.limits.requests_per_second = 50
    config.models.add(base_model="m").system_prompt = ""
    shown = {cells[0]: cells[2].text for cells in map(difference_cells, differences(TenantConfig(), config))}
    assert shown == {
        "guardrails[0].pattern": r"\d+",
        "limits.requests_per_second": "50",
        "models[0].base_model": "m",
        "models[0].system_prompt": '""',
        "system_prompt": r'say "hi"\n',
    }
