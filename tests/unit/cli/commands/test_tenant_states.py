"""`tenantry tenant suspend|resume|delete`, `--wait`, `router list`: what is in force, and where."""

from __future__ import annotations

import json

import pytest
from tenantry.config.v1.router_status_pb2 import RouterState
from tenantry.config.v1.tenant_pb2 import TenantState

from services.cli.terminal.confirmation import require_yes
from services.common.command_errors import CommandError, UsageError


@pytest.fixture
def acme(admin):
    return admin.add_tenant("acme")


@pytest.fixture
def three_routers(admin):
    for number in (1, 2, 3):
        admin.add_router(f"router-{number}", RouterState.ROUTER_STATE_CURRENT, applied_revision=40)
    return admin


def _state(admin) -> str:
    return TenantState.Name(admin.tenants["tenants/acme"].state)


def test_a_tenant_is_suspended_and_resumed(shell, admin, acme):
    result = shell("tenant", "suspend", "acme", "--reason", "leaked key")
    assert result.stdout == "tenants/acme: suspended.\n"
    assert "tenantry tenant resume acme" in result.stderr
    assert _state(admin) == "TENANT_STATE_SUSPENDED"
    assert admin.changes == [("SuspendTenant", "tenants/acme", "leaked key")]
    assert "unchanged, it is suspended already" in shell("tenant", "suspend", "acme").stdout
    assert shell("tenant", "resume", "acme").stdout == "tenants/acme: active.\n"
    assert json.loads(shell("tenant", "resume", "acme", "--json").stdout)["state"] == "TENANT_STATE_ACTIVE"


def test_an_emergency_does_not_wait_for_somebody_elses_edit(shell, admin, acme):
    def meanwhile(name: str) -> None:
        admin.tenants[name].etag = '"other"'

    admin.before_change = meanwhile
    assert shell("tenant", "suspend", "acme").exit_code == 0
    assert _state(admin) == "TENANT_STATE_SUSPENDED"


def test_only_a_suspended_tenant_is_deleted_and_only_with_yes(shell, admin, acme):
    served = shell("tenant", "delete", "acme", "--yes")
    assert served.exit_code == 1
    assert "tenantry tenant suspend acme" in served.stderr
    shell("tenant", "suspend", "acme")
    unasked = shell("tenant", "delete", "acme", stdin="acme\n")
    assert unasked.exit_code == 2
    assert "--yes" in unasked.stderr
    assert "tenants/acme" in admin.tenants
    result = shell("tenant", "delete", "acme", "--yes", "--reason", "left us")
    assert result.stdout == "tenants/acme: deleted.\n"
    assert admin.changes[-1] == ("DeleteTenant", "tenants/acme", "left us")
    assert not admin.tenants


def test_what_was_confirmed_is_what_is_deleted(shell, admin, acme):
    shell("tenant", "suspend", "acme")

    def meanwhile(name: str) -> None:
        admin.tenants[name].etag = '"other"'

    admin.before_change = meanwhile
    assert shell("tenant", "delete", "acme", "--yes").exit_code == 1
    assert "tenants/acme" in admin.tenants


class _Asked:
    can_ask = True

    def __init__(self, answer: str) -> None:
        self._answer = answer

    def ask(self, _question: str) -> str:
        return self._answer


def test_any_answer_but_the_word_is_a_no():
    for answer in ("", "y", "ACME", "acme-2"):
        with pytest.raises(CommandError, match="nothing was changed"):
            require_yes(_Asked(answer), "acme goes.", yes=False, word="acme")
    require_yes(_Asked("acme"), "acme goes.", yes=False, word="acme")
    asked_nobody = _Asked("acme")
    asked_nobody.can_ask = False
    with pytest.raises(UsageError):
        require_yes(asked_nobody, "acme goes.", yes=False, word="acme")


@pytest.mark.parametrize(
    "arguments",
    [
        ("tenant", "suspend", "acme"),
        ("tenant", "resume", "acme"),
        ("tenant", "update", "acme", "--weight", "5"),
        ("tenant", "rollback", "acme", "1"),
        ("key", "revoke", "acme", "k1"),
    ],
)
def test_waiting_ends_once_every_router_applied_the_change(shell, admin, acme, three_routers, arguments):
    shell("key", "create", "acme")
    result = shell(*arguments, "--wait")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == "in force at 3 of 3 routers"
    changed = admin.keys["tenants/acme/keys/k1"] if "key" in arguments else admin.tenants["tenants/acme"]
    assert admin.waits == [changed.revision]
    admin.waits.clear()
    shell(*arguments)
    assert not admin.waits


def test_routers_that_have_not_applied_it_are_named(shell, admin, acme, three_routers):
    admin.add_router("router-4", RouterState.ROUTER_STATE_UNREACHABLE)
    admin.add_router(
        "router-5",
        RouterState.ROUTER_STATE_REFUSED,
        refused_revision=41,
        reasons=["tenants/acme: no such pool"],
    )
    result = shell("tenant", "suspend", "acme", "--wait")
    assert result.exit_code == 1
    assert result.stdout == "tenants/acme: suspended.\n"
    assert "in force at only 3 of 5 routers." in result.stderr
    assert "router-4: out of reach, last heard 2026-11-24 09:00:00Z" in result.stderr
    assert "router-5: refused revision 41: tenants/acme: no such pool" in result.stderr
    as_json = shell("tenant", "suspend", "acme", "--wait", "--json")
    assert as_json.exit_code == 1
    tenant, progress = (json.loads(line) for line in as_json.stdout.splitlines())
    assert progress["applied_routers"] == 3
    assert progress["complete"] is False
    assert [router["router"] for router in progress["missing"]] == ["router-4", "router-5"]
    assert progress["revision"] == tenant["revision"]


def test_without_a_router_nothing_is_claimed(shell, admin, acme):
    result = shell("tenant", "suspend", "acme", "--wait")
    assert result.exit_code == 0
    assert "in force; no router is connected yet" in result.stdout


def test_routers_are_listed_with_where_they_stand(shell, admin, three_routers):
    admin.add_router(
        "router-4", RouterState.ROUTER_STATE_REFUSED, applied_revision=39, refused_revision=40, reasons=["x"]
    )
    lines = shell("router", "list").stdout.splitlines()
    assert lines[0].split() == ["ROUTER", "STATE", "REVISION", "LAST", "HEARD"]
    assert lines[1].split()[:3] == ["router-1", "current", "40"]
    assert lines[4].endswith("refused revision 40: x")
    assert json.loads(shell("router", "list", "--json").stdout.splitlines()[0])["router"] == "router-1"


def test_tenants_are_listed_by_a_filter_the_service_understands(shell, admin, acme):
    shell("tenant", "list", "--filter", "state = SUSPENDED")
    assert admin.filters == ["state = SUSPENDED"]


def test_every_change_says_why(shell, admin, acme, tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"x")
    (tmp_path / "empty.yaml").write_text("{}")
    file = str(tmp_path / "empty.yaml")
    for arguments in (
        ("tenant", "create", "globex", "--base-model", "m"),
        ("tenant", "update", "acme", "--weight", "9"),
        ("key", "create", "acme"),
        ("key", "revoke", "acme", "k1"),
        ("adapter", "register", "acme", "pirate", str(tmp_path), "--base-model", "m"),
        ("model", "create", "m", "--file", file),
        ("pool", "create", "p", "--file", file),
    ):
        admin.changes.clear()
        result = shell(*arguments, "--reason", "ticket 7")
        assert result.exit_code == 0, result.output
        assert [reason for _, _, reason in admin.changes] == ["ticket 7"], arguments
