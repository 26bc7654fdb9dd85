"""Who suspended a tenant and who made its key: the command reads it from the real operator log, verified."""

from __future__ import annotations

import asyncio
import json

import pytest
from tenantry.config.v1 import config_admin_service_pb2 as admin_pb
from typer.testing import CliRunner

from services.cli.main import app

pytestmark = [pytest.mark.integration, pytest.mark.mesh, pytest.mark.asyncio(loop_scope="session")]


async def test_the_operator_log_says_who_did_what_and_why(mesh):
    tenant = await mesh.new_tenant()
    await mesh.admin(
        "SuspendTenant", admin_pb.SuspendTenantRequest(name=tenant.name, reason="leaked key, ticket 7")
    )
    await mesh.admin("ResumeTenant", admin_pb.ResumeTenantRequest(name=tenant.name))
    arguments = [
        "operator",
        "log",
        "--json",
        "--resource",
        tenant.tenant_id,
        "--state-dir",
        str(mesh.layout.state_dir),
    ]
    read = await asyncio.to_thread(CliRunner().invoke, app, arguments)
    assert read.exit_code == 0, read.output
    edits = [json.loads(line) for line in read.stdout.splitlines()]
    assert [edit["call"] for edit in edits][:2] == ["CreateTenant", "CreateKey"]
    assert [(edit["call"], edit["reason"], edit["outcome"]) for edit in edits][-2:] == [
        ("SuspendTenant", "leaked key, ticket 7", "written"),
        ("ResumeTenant", "", "written"),
    ]
    assert {edit["operator"] for edit in edits} == {"first"}
    assert edits[1]["resource"].startswith(f"{tenant.name}/keys/")
