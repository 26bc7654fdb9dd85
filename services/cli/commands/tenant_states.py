"""`tenantry tenant`: suspend, resume, delete."""

from __future__ import annotations

import typer
from tenantry.config.v1.tenant_pb2 import Tenant, TenantState

from services.cli.clients.admin import AdminClient
from services.cli.clients.names import short
from services.cli.commands.change_options import Reason, TenantId, Waiting, Yes
from services.cli.commands.propagation import await_routers
from services.cli.invocation import shared_options
from services.cli.mesh import Mesh
from services.cli.terminal.confirmation import require_yes
from services.cli.terminal.output import Output
from services.common.command_errors import CommandError

app = typer.Typer()


@app.command()
@shared_options
async def suspend(
    mesh: Mesh, output: Output, tenant: TenantId, waiting: Waiting, *, reason: Reason = ""
) -> None:
    """Refuse a tenant's requests, within two seconds at connected routers, until it is resumed."""
    async with mesh.admin() as admin:
        before = await admin.get_tenant(tenant)
        # Without its etag: a concurrent edit of a prompt must not delay an emergency.
        after = await admin.suspend_tenant(tenant, reason=reason)
        _show(output, before, after, "suspended")
        await await_routers(admin, output, after.revision, waiting)
    output.suggest("Undo it", f"tenantry tenant resume {short(tenant)}")


@app.command()
@shared_options
async def resume(
    mesh: Mesh, output: Output, tenant: TenantId, waiting: Waiting, *, reason: Reason = ""
) -> None:
    """Serve a suspended tenant again."""
    async with mesh.admin() as admin:
        before = await admin.get_tenant(tenant)
        after = await admin.resume_tenant(tenant, reason=reason)
        _show(output, before, after, "active")
        await await_routers(admin, output, after.revision, waiting)


def _show(output: Output, before: Tenant, after: Tenant, state: str) -> None:
    if output.json:
        output.result(after)
    elif before.state == after.state:
        output.line(f"{after.name}: unchanged, it is {state} already.")
    else:
        output.line(f"{after.name}: {state}.")


@app.command()
@shared_options
async def delete(
    mesh: Mesh, output: Output, tenant: TenantId, *, yes: Yes = False, reason: Reason = ""
) -> None:
    """Delete a suspended tenant for good, with its keys, adapters and config. Its audit log is kept."""
    async with mesh.admin() as admin:
        before = await admin.get_tenant(tenant)
        await _check(admin, before)
        require_yes(
            output,
            f"This deletes {before.name} for good, with its keys, adapters and every config version.",
            yes=yes,
            word=short(before.name),
        )
        revision = await admin.delete_tenant(tenant, etag=before.etag, reason=reason)
    if output.json:
        output.record({"name": before.name, "deleted": True, "revision": revision})
    else:
        output.line(f"{before.name}: deleted.")


async def _check(admin: AdminClient, tenant: Tenant) -> None:
    """Refuse before the question is asked."""
    if tenant.state != TenantState.TENANT_STATE_SUSPENDED:
        raise CommandError(
            f"{tenant.name} is being served, and deleting cannot be undone: suspend it first.",
            f"tenantry tenant suspend {short(tenant.name)}",
        )
    await admin.delete_tenant(tenant.name, etag=tenant.etag, validate_only=True)
