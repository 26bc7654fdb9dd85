"""One run of the local mesh, from its first process to its last."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from services.cli.clients.admin import AdminClient
from services.cli.clients.listener import Listener
from services.cli.demo.answer import Answer, NoAnswer
from services.cli.demo.demonstration import QUESTION, ask, export, verify
from services.cli.demo.narration import Narration
from services.cli.demo.provisioning import DEMO_TENANTS, Provisioned, provision
from services.cli.mesh import read_secret
from services.cli.review.grants import issue_grant
from services.cli.settings import read_settings
from services.cli.terminal.failure import next_step
from services.cli.terminal.output import quoted
from services.common.command_errors import CommandError
from services.common.errors import Error, Reason
from services.local.layout import StateLayout
from services.local.mesh import LocalMesh, MeshOptions
from services.local.mesh_ports import PortChoice

_GRANT_SECONDS = 600


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The options of `up`."""

    once: bool
    routers: int
    ports: PortChoice | None
    etcd_binary: Path | None = None


async def run(layout: StateLayout, options: RunOptions, narration: Narration, hurry: asyncio.Event) -> None:
    """Start, provision, answer; then export and verify, or wait to be stopped.

    Args:
        layout: where everything is kept.
        options: the options of `up`.
        narration: shows the progress.
        hurry: once set, processes are killed instead of stopped.

    Raises:
        CommandError: a process did not start; with `once`, a tenant got no answer or the log did not verify.
        Error: the mesh refused a step that the rest needs.
    """
    with narration.doing("start"), narration.bar():
        how = MeshOptions(
            routers=options.routers,
            ports=options.ports,
            show=narration.log,
            progress=narration.prepared,
            hurry=hurry,
            etcd_binary=options.etcd_binary,
        )
        mesh = LocalMesh(layout, how)
        await mesh.__aenter__()
    try:
        await _serve(mesh, options, narration)
    finally:
        with narration.doing("stop"):
            await mesh.__aexit__(None, None, None)


async def _serve(mesh: LocalMesh, options: RunOptions, narration: Narration) -> None:
    layout, model = mesh.layout, mesh.model
    assert model is not None
    where = mesh.endpoints({})
    operations = Listener(where.operations_address, where.ca_path)
    operator_key = read_secret(where.operator_key_path, "operator's key")
    with narration.doing("provision"):
        async with AdminClient.connect(operations, operator_key) as admin:
            provisioned = await provision(admin, model, mesh.triton_target, layout)
    endpoints = mesh.endpoints(dict(provisioned.keys))
    endpoints.save(layout.state_dir)
    with narration.doing("triton"):
        await mesh.wait_ready("triton")
    listener = Listener(endpoints.tenant_address, endpoints.ca_path)
    with narration.asking(QUESTION):
        answers = [await _ask(listener, provisioned, tenant.tenant_id) for tenant in DEMO_TENANTS]
    state = (
        "" if layout.state_dir == read_settings().state_path else f" --state-dir {quoted(layout.state_dir)}"
    )
    narration.answers(answers, state)
    if options.once:
        _require_all(answers)
    narration.moved_ports(mesh.ports.moved)
    narration.step(
        "ready",
        ok=True,
        tenant_address=endpoints.tenant_address,
        operations_address=endpoints.operations_address,
        ca_path=str(endpoints.ca_path),
        state_dir=str(layout.state_dir),
        metrics=endpoints.metrics,
        metrics_token_path=str(endpoints.metrics_token_path),
    )
    if options.once:
        async with AdminClient.connect(operations, operator_key) as admin:
            reviewed = await admin.get_tenant(DEMO_TENANTS[-1].tenant_id)
        await _review(layout, operations, reviewed.tenant_uid, narration)
        return
    narration.where(endpoints, state)
    await asyncio.Event().wait()


async def _ask(listener: Listener, provisioned: Provisioned, tenant: str) -> Answer | NoAnswer:
    try:
        if tenant in provisioned.refused:
            raise provisioned.refused[tenant]
        answer = await ask(listener, read_secret(provisioned.keys[tenant], "key"), tenant)
    except Error as error:
        if error.reason is Reason.TENANT_SUSPENDED:
            resume = f"tenantry tenant resume {tenant}"
            return NoAnswer(tenant, error.reason, error.message, "Serve it again", resume)
        return NoAnswer(tenant, error.reason, error.message, next_step(error))
    if not answer.text:
        show = f"tenantry tenant get {tenant}"
        return NoAnswer(tenant, "EMPTY_ANSWER", "the answer is empty", "See its config", show)
    return answer


def _require_all(answers: Sequence[Answer | NoAnswer]) -> None:
    missing = [answer for answer in answers if isinstance(answer, NoAnswer)]
    if missing:
        raise CommandError(
            "not every tenant got an answer.",
            details=[(answer.tenant, f"{answer.message}. {answer.next}") for answer in missing],
        )


async def _review(layout: StateLayout, operations: Listener, tenant_uid: str, narration: Narration) -> None:
    scratch = Path(tempfile.mkdtemp(prefix="export-", dir=layout.state_dir))
    try:
        with narration.doing("export") as details:
            details["tenant_uid"] = tenant_uid
            grant = await issue_grant(layout.audit_dir, tenant_uid, ttl_seconds=_GRANT_SECONDS)
            pinned = await export(operations, grant, tenant_uid, scratch / "bundle")
        with narration.doing("verify") as details:
            report = await verify(scratch / "bundle", pinned)
            details["entries"] = report.size
            details["damages"] = [str(damage) for damage in report.damages]
            if not report.good or report.size == 0:
                raise CommandError(
                    "the exported audit log does not verify.",
                    details=[("", str(damage)) for damage in report.damages],
                )
        narration.verified(report.size)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
