"""`tenantry tenant apply`: a plan first, all or nothing checked, and nothing to do the second time."""

from __future__ import annotations

import json

import pytest
from tenantry.config.v1.pool_pb2 import Pool
from tenantry.config.v1.router_status_pb2 import RouterState

from services.cli.declarative.tenant_steps import StepsClient
from services.common.errors import FieldViolation, PermissionDeniedError, UnavailableError

DOCUMENT = """\
tenant: {tenant}
config:
  models:
  - alias: fast
    base_model: models/smollm2
  weight: {weight}
"""


@pytest.fixture
def folder(tmp_path):
    """Four tenants: new, changed, as it is, and new again."""
    folder = tmp_path / "tenants"
    folder.mkdir()
    for tenant, weight in (("acme", 1), ("globex", 20), ("initech", 3), ("umbrella", 4)):
        (folder / f"{tenant}.yaml").write_text(DOCUMENT.format(tenant=tenant, weight=weight))
    return folder


@pytest.fixture
def live(admin):
    for tenant, weight in (("globex", 2), ("initech", 3), ("stray", 1), ("strayer", 1)):
        config = admin.add_tenant(tenant).config
        config.models[0].alias, config.weight = "fast", weight
    return admin


@pytest.fixture
def apply(shell, folder):
    return lambda *arguments: shell("tenant", "apply", "-f", str(folder), *arguments)


def _snapshot(admin) -> dict[str, bytes]:
    return {name: tenant.SerializeToString() for name, tenant in admin.tenants.items()}


def _complain_about_weights(tenant):
    return [FieldViolation("tenant.config.weight", f"{tenant.config.weight} is too much")]


def test_the_plan_is_shown_with_every_difference(apply, live):
    result = apply("--yes")
    assert result.exit_code == 0, result.output
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["TENANT", "ACTION", "FIELD", "BEFORE", "AFTER"],
        ["acme", "create", "models", "fast"],
        ["globex", "update", "config.weight", "2", "20"],
        ["umbrella", "create", "models", "fast"],
        ["2", "to", "create,", "1", "to", "update,", "1", "unchanged."],
        ["tenants/acme:", "created,", "config", "version", "1."],
        ["tenants/globex:", "updated,", "config", "version", "2."],
        ["tenants/umbrella:", "created,", "config", "version", "1."],
    ]
    assert live.tenants["tenants/globex"].config.weight == 20
    assert "tenants/stray" in live.tenants


def test_one_change_among_many_is_a_few_lines_unless_all_are_asked_for(shell, admin, tmp_path):
    for number in range(60):
        admin.add_tenant(f"t{number}")
    folder = tmp_path / "many"
    shell("tenant", "export", "-o", str(folder))
    changed = folder / "t7.yaml"
    changed.write_text(changed.read_text() + "  weight: 5\n")
    plan = shell("tenant", "apply", "-f", str(folder), "--dry-run")
    assert [line.split() for line in plan.stdout.splitlines()] == [
        ["TENANT", "ACTION", "FIELD", "BEFORE", "AFTER"],
        ["t7", "update", "config.weight", "100", "(default)", "5"],
        ["1", "to", "update,", "59", "unchanged."],
    ]
    whole = shell("tenant", "apply", "-f", str(folder), "--dry-run", "--verbose")
    assert len(whole.stdout.splitlines()) == 62
    machines = shell("tenant", "apply", "-f", str(folder), "--dry-run", "--json")
    assert len(machines.stdout.splitlines()) == 60


def test_a_field_that_goes_shows_the_default_that_is_in_force_afterwards(apply, live, folder):
    config = live.tenants["tenants/globex"].config
    config.limits.requests_per_second = 5
    config.limits.tokens_per_minute = 7
    config.deadlines.max_timeout.seconds = 30
    config.deadlines.default_timeout.seconds = 10
    config.models[0].system_prompt = "Be calm."
    config.models.add(alias="slow", base_model="models/smollm2")
    plan = [line.split() for line in apply("--dry-run").stdout.splitlines()]
    for row in (
        ["", "config.limits.requests_per_second", "5", "100", "(default)"],
        ["", "config.limits.tokens_per_minute", "7", "no", "limit", "(default)"],
        ["", "config.deadlines.default_timeout", "10s", "60s", "(default)"],
        ["", "config.deadlines.max_timeout", "30s", "600s", "(default)"],
        # There is no such alias afterwards, so nothing of it is in force.
        ["", "config.models[1].alias", "slow", "(unset)"],
    ):
        assert row[1:] in plan or ["globex", "update", *row[1:]] in plan
    records = [json.loads(line) for line in apply("--dry-run", "--json").stdout.splitlines()]
    [update] = [record for record in records if record["action"] == "update"]
    limits = {difference["field"]: difference for difference in update["differences"]}
    assert limits["config.limits.requests_per_second"] == {
        "field": "config.limits.requests_per_second",
        "before": 5,
        "after_default": "100",
    }
    assert folder


def test_a_second_run_has_nothing_to_do(apply, live):
    apply("--yes", "--prune")
    before, revision = _snapshot(live), live.revision
    for arguments in ((), ("--yes",), ("--prune",), ("--dry-run",)):
        result = apply(*arguments)
        assert result.exit_code == 0, result.output
        assert result.stdout == "Nothing to do: 4 tenants as declared.\n"
    assert (_snapshot(live), live.revision) == (before, revision)


def test_a_dry_run_changes_nothing(apply, live):
    before = _snapshot(live)
    result = apply("--dry-run", "--prune")
    assert result.exit_code == 0
    assert "Valid; nothing was changed." in result.stderr
    assert "2 to create, 1 to update, 1 unchanged, 2 to delete." in result.stdout
    assert _snapshot(live) == before
    assert not live.changes


def test_without_yes_and_without_a_terminal_nothing_changes(apply, live):
    result = apply()
    assert result.exit_code == 2
    assert "--yes" in result.stderr
    assert not live.changes


def test_every_violation_of_every_file_is_shown_and_nothing_is_applied(apply, live, folder):
    live.refused_fields = _complain_about_weights
    result = apply("--yes")
    assert result.exit_code == 1
    for tenant, weight in (("acme", 1), ("globex", 20), ("umbrella", 4)):
        assert f"{folder}/{tenant}.yaml: config.weight: {weight} is too much" in result.stderr
    assert "initech.yaml" not in result.stderr
    assert not live.changes


def test_without_the_check_a_late_violation_would_leave_half_of_it(apply, live, monkeypatch):
    async def unchecked(_self, _steps):
        """The mutant."""

    monkeypatch.setattr(StepsClient, "check", unchecked)
    live.refused_fields = lambda tenant: _complain_about_weights(tenant) if tenant.config.weight == 4 else []
    assert apply("--yes").exit_code == 1
    assert live.changes


def test_an_edit_in_between_stops_there_and_says_what_stays(apply, live):
    def meanwhile(name: str) -> None:
        if name == "tenants/globex":
            live.tenants[name].etag = '"other"'

    live.before_change = meanwhile
    result = apply("--yes")
    assert result.exit_code == 1
    assert (
        "tenants/globex: another operator changed it after the plan was made; stopped there." in result.stderr
    )
    assert "  applied: acme\n  not applied: globex, umbrella\n" in result.stderr
    assert "tenants/acme" in live.tenants
    assert "tenants/umbrella" not in live.tenants
    assert live.tenants["tenants/globex"].config.weight == 2


def test_a_tenant_made_meanwhile_is_not_overwritten(apply, live):
    def meanwhile(name: str) -> None:
        if name == "tenants/acme" and name not in live.tenants:
            live.add_tenant("acme")

    live.before_change = meanwhile
    result = apply("--yes")
    assert result.exit_code == 1
    assert "tenants/acme: another operator changed it" in result.stderr
    assert not live.tenants["tenants/acme"].config.HasField("weight")


def test_a_mesh_that_goes_away_halfway_says_what_was_applied(apply, live):
    def goes_away(name: str) -> None:
        if name == "tenants/acme":
            live.error = UnavailableError("etcd does not answer")

    live.before_change = goes_away
    result = apply("--yes")
    assert result.exit_code == 1
    assert "tenants/globex: etcd does not answer; stopped there." in result.stderr
    # The one without an answer may have been changed or not.
    assert "  applied: acme\n  not known: globex\n  not applied: umbrella\n" in result.stderr


def test_pruning_comes_last_suspends_first_and_needs_yes(apply, live):
    live.tenants["tenants/strayer"].state = 2
    asked = apply("--prune")
    assert asked.exit_code == 2
    assert "the plan deletes 2 tenants for good" in asked.stderr
    assert not live.changes
    result = apply("--prune", "--yes", "--reason", "tidy")
    assert result.exit_code == 0, result.output
    plan = [line.split() for line in result.stdout.splitlines()]
    assert [row[:2] for row in plan[4:6]] == [["stray", "delete"], ["strayer", "delete"]]
    assert live.changes[-3:] == [
        ("SuspendTenant", "tenants/stray", "tidy"),
        ("DeleteTenant", "tenants/stray", "tidy"),
        ("DeleteTenant", "tenants/strayer", "tidy"),
    ]
    assert sorted(live.tenants) == [f"tenants/{name}" for name in ("acme", "globex", "initech", "umbrella")]


def test_a_tenant_that_cannot_be_deleted_keeps_all_else_from_changing(apply, live):
    live.pools["pools/own"] = Pool(name="pools/own", dedicated_to="tenants/stray")
    result = apply("--prune", "--yes")
    assert result.exit_code == 1
    assert "tenants/stray: pools/own is dedicated to the tenant" in result.stderr
    assert not live.changes


def test_one_file_is_never_the_whole_mesh(shell, live, folder):
    result = shell("tenant", "apply", "-f", str(folder / "acme.yaml"), "--prune", "--yes")
    assert result.exit_code == 2
    assert "--prune compares with a whole directory" in result.stderr
    assert "tenants/stray" in live.tenants


def test_machines_read_one_object_a_step(apply, live, folder):
    live.add_router("router-1", RouterState.ROUTER_STATE_CURRENT)
    result = apply("--yes", "--json", "--wait")
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(record.get("step"), record.get("action")) for record in records] == [
        ("plan", "create"),
        ("plan", "update"),
        ("plan", "unchanged"),
        ("plan", "create"),
        ("applied", "create"),
        ("applied", "update"),
        ("applied", "create"),
        (None, None),
    ]
    assert records[1]["differences"] == [{"field": "config.weight", "before": 2, "after": 20}]
    assert records[1]["file"] == f"{folder}/globex.yaml"
    assert records[-1]["complete"] is True
    # The newest revision is the one to wait for.
    assert live.waits == [records[-2]["revision"]] == [live.revision]


def test_nothing_to_do_is_waited_for_all_the_same(apply, live):
    assert apply("--yes").exit_code == 0
    live.add_router("router-1", RouterState.ROUTER_STATE_CURRENT)
    assert apply("--yes", "--dry-run", "--wait").exit_code == 0
    assert not live.waits
    assert apply("--yes", "--wait").stdout.splitlines()[-1] == "in force at 1 of 1 router"
    assert live.waits == [0]
    live.add_router("router-2", RouterState.ROUTER_STATE_APPLYING)
    assert apply("--yes", "--wait").exit_code == 1


def test_whoever_may_not_is_told_before_anything_changes(apply, live):
    live.error = PermissionDeniedError("needs the role platform-admin")
    assert apply("--yes").exit_code == 1
    assert not live.changes
