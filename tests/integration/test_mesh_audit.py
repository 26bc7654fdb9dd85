"""What a reviewer gets: one tenant's log, decrypted, and proof that nothing in it was touched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tenantry.config.v1 import config_admin_service_pb2 as admin_pb
from typer.testing import CliRunner

from services.cli.main import app
from tests.integration.mesh_access import bearer, question

pytestmark = [pytest.mark.integration, pytest.mark.mesh, pytest.mark.asyncio(loop_scope="session")]


def verdict_on(bundle, keys):
    return CliRunner().invoke(app, ["audit", "verify", str(bundle), "--keys", str(keys)])


async def exported(mesh, tenant, folder):
    """Export with the command a reviewer uses; returns (bundle, pinned keys)."""
    folder.mkdir()
    result = await mesh.export(getattr(tenant, "tenant_id", tenant), folder)
    assert result.exit_code == 0, result.output
    return folder / "bundle", Path(json.loads(result.stdout)["keys"])


async def asked(mesh, text="Hello?", **fields):
    """A new tenant and its answer."""
    tenant = await mesh.new_tenant()
    answer = await mesh.access.inference.Generate(
        question(text, **fields), metadata=bearer(tenant.key), timeout=60
    )
    return tenant, answer


async def test_an_export_holds_what_was_said_and_verifies_offline(mesh, tmp_path):
    tenant, answer = await asked(mesh, "Do you know the word quokka-4711?", correlation_id="case-7")
    bundle, keys = await exported(mesh, tenant, tmp_path / "mine")
    text = (bundle / "records.jsonl").read_text()
    assert "quokka-4711" in text
    assert "case-7" in text
    assert json.dumps(answer.text, ensure_ascii=False)[1:-1] in text
    verdict = verdict_on(bundle, keys)
    assert verdict.exit_code == 0, verdict.output


async def test_a_flipped_byte_in_any_file_is_named(mesh, tmp_path):
    tenant, _ = await asked(mesh)
    bundle, keys = await exported(mesh, tenant, tmp_path / "mine")
    files = sorted(path for path in bundle.rglob("*") if path.is_file())
    assert len(files) >= 3
    # Every byte of every file is flipped in the unit tests, over a shorter log.
    for path in files:
        original = path.read_bytes()
        for place in {0, len(original) // 3, len(original) // 2, len(original) - 1}:
            path.write_bytes(original[:place] + bytes([original[place] ^ 1]) + original[place + 1 :])
            verdict = verdict_on(bundle, keys)
            assert verdict.exit_code == 1, f"{path.name} byte {place} went unnoticed"
            assert path.name in verdict.output
        path.write_bytes(original)
    assert verdict_on(bundle, keys).exit_code == 0


async def test_another_tenants_keys_verify_nothing_and_its_grant_reads_nothing(mesh, tmp_path):
    (mine, _), (other, _) = await asked(mesh), await asked(mesh)
    bundle, _ = await exported(mesh, mine, tmp_path / "mine")
    _, foreign_keys = await exported(mesh, other, tmp_path / "other")
    assert verdict_on(bundle, foreign_keys).exit_code == 1
    (tmp_path / "refused").mkdir()
    refused = await mesh.export(mine.tenant_id, tmp_path / "refused", grant_of=other.tenant_id)
    assert refused.exit_code != 0
    assert not list((tmp_path / "refused").glob("bundle/*"))


async def test_the_operator_log_holds_every_edit_with_its_outcome_and_no_tenants_text(mesh, tmp_path):
    tenant = await mesh.new_tenant(system_prompt="Say nothing of wombat-1618.")
    read = await mesh.admin("GetTenant", admin_pb.GetTenantRequest(name=tenant.name))
    read.config.weight = 7
    written = await mesh.admin(
        "UpdateTenant", admin_pb.UpdateTenantRequest(tenant=read, reason="they pay for more")
    )
    bundle, keys = await exported(mesh, "operators", tmp_path / "operators")
    records = [json.loads(line) for line in (bundle / "records.jsonl").read_text().splitlines()]
    [intent] = [one for one in records if "they pay for more" in json.dumps(one)]
    assert "UpdateTenant" in json.dumps(intent)
    outcomes = [one for one in records if f'"revision": {written.revision}' in json.dumps(one)]
    assert len(outcomes) == 1
    assert "wombat-1618" not in (bundle / "records.jsonl").read_text()
    assert verdict_on(bundle, keys).exit_code == 0


async def test_nothing_a_tenant_said_lies_in_the_clear(mesh):
    tenant, answer = await asked(mesh, "Do you know the word numbat-2718?")
    assert answer.text
    state = mesh.layout.state_dir
    files = [
        path
        for path in state.rglob("*")
        if path.is_file() and not path.is_relative_to(mesh.layout.models_dir)
    ]
    assert any(path.is_relative_to(mesh.layout.audit_dir) for path in files)
    secrets = [b"numbat-2718", tenant.key.encode(), tenant.key.rsplit(".", 1)[1].encode()]
    for path in files:
        data = path.read_bytes()
        for secret in secrets:
            assert secret not in data, f"{path.relative_to(state)} holds what it must not"
