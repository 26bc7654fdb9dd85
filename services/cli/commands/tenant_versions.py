"""`tenantry tenant`: versions, diff, rollback."""

from __future__ import annotations

from typing import Annotated

import typer
from tenantry.config.v1.tenant_version_pb2 import TenantVersion

from services.cli.clients.names import short
from services.cli.commands.change_options import DryRun, Reason, TenantId, Waiting
from services.cli.commands.propagation import await_routers
from services.cli.declarative.effective_tenant import unset_between
from services.cli.invocation import shared_options
from services.cli.mesh import Mesh
from services.cli.terminal.differences import COLUMNS, difference_cells, difference_records
from services.cli.terminal.output import Cell, Output, Styled
from services.cli.terminal.wording import short_digest, when
from services.common.command_errors import UsageError

app = typer.Typer()


def version_number(text: str) -> int:
    """`3` or, as `tenant versions` shows it, `v3`."""
    digits = text.removeprefix("v")
    if not (digits.isascii() and digits.isdigit() and 0 < int(digits) < 10**12):
        raise typer.BadParameter(f"{text} is not the number of a version.")
    return int(digits)


@app.command()
@shared_options
async def versions(mesh: Mesh, output: Output, tenant: TenantId) -> None:
    """List a tenant's config versions, newest first, with author, time and reason."""
    async with mesh.admin() as admin:
        found = await admin.versions.list_versions(tenant)
    output.table(
        found,
        ("VERSION", "IN FORCE", "WRITTEN", "BY", "SHA256", "REASON"),
        (_row(version) for version in found),
        empty=f"{short(tenant)} has no versions.",
    )


def _row(version: TenantVersion) -> tuple[Cell, ...]:
    reason = version.reason
    if version.rollback_of:
        reason = f"rollback to v{version.rollback_of}" + (f": {reason}" if reason else "")
    return (
        f"v{version.version}",
        Styled("yes", "green") if version.active else "",
        when(version.create_time),
        short(version.operator),
        short_digest(version.config_sha256),
        reason,
    )


@app.command()
@shared_options
async def diff(
    mesh: Mesh,
    output: Output,
    tenant: TenantId,
    *,
    before: Annotated[
        int | None,
        typer.Argument(metavar="A", parser=version_number, help="The older version [the one before B]."),
    ] = None,
    after: Annotated[
        int | None,
        typer.Argument(metavar="B", parser=version_number, help="The newer version [the one in force]."),
    ] = None,
) -> None:
    """Show the fields in which two config versions differ; by default, the newest change."""
    async with mesh.admin() as admin:
        in_force = (await admin.get_tenant(tenant)).config_version
        newer = after or in_force
        older = before or newer - 1
        if older == 0:
            raise UsageError(f"{short(tenant)} has one config version only, v1: there is nothing to compare.")
        found = await admin.versions.diff(tenant, older, newer)
        configs = [(await admin.versions.get_version(tenant, number)).config for number in (older, newer)]
    unset_of = unset_between(*configs)
    if output.json:
        for record in difference_records(found, unset_of):
            output.record(record)
        return
    output.note(f"{short(tenant)}: v{older} → v{newer}" + (" (in force)" if newer == in_force else ""))
    if found:
        output.rows(
            COLUMNS, (difference_cells(difference, unset_of(difference.field)) for difference in found)
        )
    else:
        output.note("The two are equal.")


@app.command()
@shared_options
async def rollback(
    mesh: Mesh,
    output: Output,
    tenant: TenantId,
    version: Annotated[
        int, typer.Argument(metavar="VERSION", parser=version_number, help="The version to go back to.")
    ],
    waiting: Waiting,
    *,
    reason: Reason = "",
    dry_run: DryRun = False,
) -> None:
    """Put an older config in force again, as a new version. No version is lost, and this one can be rolled back too."""
    async with mesh.admin() as admin:
        before = await admin.get_tenant(tenant)
        changed = await admin.versions.rollback(
            tenant, version, etag=before.etag, reason=reason, validate_only=dry_run
        )
        if output.json:
            output.result(changed)
        elif changed.config == before.config:
            output.line(
                f"{before.name}: nothing to change; its config, version {before.config_version}, equals "
                f"version {version}."
            )
        elif dry_run:
            output.line(f"{before.name}: valid; nothing was changed.")
            output.suggest(
                "See the change", f"tenantry tenant diff {short(tenant)} {before.config_version} {version}"
            )
        else:
            output.line(
                f"{changed.name}: config version {changed.config_version} (was {before.config_version}), "
                f"equal to version {version}."
            )
        if not dry_run:
            await await_routers(admin, output, changed.revision, waiting)
