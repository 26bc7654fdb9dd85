"""One run of the local mesh, from its first process to its last."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from services.cli.clients.admin import AdminClient
from services.cli.clients.listener import Listener
from services.cli.errors import CommandError
from services.cli.local.demonstration import ask, export, issue_grant, verify
from services.cli.local.layout import StateLayout
from services.cli.local.mesh import LocalMesh, MeshOptions
from services.cli.local.narration import Narration
from services.cli.local.process import ProcessFailedError
from services.cli.local.provisioning import DEMO_TENANTS, provision
from services.cli.mesh import read_secret
from services.cli.settings import CliSettings


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What `up` was asked for."""

    once: bool
    routers: int
    usual_ports: bool


async def run(layout: StateLayout, options: RunOptions, narration: Narration) -> None:
    """Start, provision, answer; then export and verify, or wait to be stopped.

    Raises:
        CommandError: a process did not start, or the log did not verify.
        Error: the mesh refused something.
    """
    try:
        with narration.start():
            mesh = LocalMesh(
                layout, MeshOptions(options.routers, options.usual_ports, narration.log, narration.prepared)
            )
            await mesh.__aenter__()
    except ProcessFailedError as error:
        narration.step("start", ok=False, process=error.name)
        raise CommandError(
            str(error) + ".\n" + "\n".join(error.last_lines), f"See {layout.logs_dir}."
        ) from None
    try:
        narration.step("start", ok=True)
        await _serve(mesh, options, narration)
    except ProcessFailedError as error:
        raise CommandError(
            str(error) + ".\n" + "\n".join(error.last_lines), f"See {layout.logs_dir}."
        ) from None
    finally:
        await mesh.__aexit__(None, None, None)
        narration.step("stop", ok=True)


async def _serve(mesh: LocalMesh, options: RunOptions, narration: Narration) -> None:
    layout, model = mesh.layout, mesh.model
    assert model is not None
    where = mesh.endpoints({})
    operations = Listener(where.operations_address, where.ca_path)
    operator_key = read_secret(where.operator_key_path, "operator's key")
    async with AdminClient.connect(operations, operator_key) as admin:
        keys = await provision(admin, model, mesh.triton_target, layout.artifact_dir, layout.keys_dir)
        reviewed = await admin.get_tenant(DEMO_TENANTS[-1].tenant_id)
    await mesh.wait_ready("triton")
    endpoints = mesh.endpoints(keys)
    endpoints.save(layout.state_dir)
    listener = Listener(endpoints.tenant_address, endpoints.ca_path)
    answers = [await ask(listener, read_secret(path, "key"), tenant) for tenant, path in keys.items()]
    narration.answers(answers)
    narration.step(
        "ready",
        ok=True,
        tenant_address=endpoints.tenant_address,
        operations_address=endpoints.operations_address,
        ca_path=str(endpoints.ca_path),
        state_dir=str(layout.state_dir),
        metrics=endpoints.metrics,
    )
    if options.once:
        await _review(layout, operations, reviewed.tenant_uid, narration)
        return
    narration.where(endpoints, default_state=layout.state_dir == CliSettings().state_path)
    await asyncio.Event().wait()


async def _review(layout: StateLayout, operations: Listener, tenant_uid: str, narration: Narration) -> None:
    scratch = Path(tempfile.mkdtemp(prefix="export-", dir=layout.state_dir))
    try:
        grant = await issue_grant(layout.audit_dir, tenant_uid)
        pinned = await export(operations, grant, tenant_uid, scratch / "bundle")
        narration.step("export", ok=True, tenant_uid=tenant_uid)
        report = await verify(scratch / "bundle", pinned)
        damages = [str(damage) for damage in report.damages]
        narration.step("verify", ok=report.good, entries=report.size, damages=damages)
        if not report.good or report.size == 0:
            raise CommandError("the exported audit log does not verify.")
        narration.verified(report.size)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
