"""`tenantry tenant`: export, apply."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from tenantry.config.v1.tenant_pb2 import Tenant

from services.cli.clients.admin import AdminClient
from services.cli.clients.names import short
from services.cli.commands.change_options import DryRun, Reason, Waiting, Yes
from services.cli.commands.propagation import NEWEST_REVISION, await_routers
from services.cli.declarative.declared import SUFFIXES, Declared, declared_plain, read_declared
from services.cli.declarative.plan_view import show_done, show_plan
from services.cli.declarative.tenant_plan import Action, Step, count, make_plan
from services.cli.declarative.tenant_steps import StepsClient
from services.cli.documents import Plain, to_yaml
from services.cli.invocation import shared_options
from services.cli.mesh import Mesh
from services.cli.terminal.confirmation import require_yes
from services.cli.terminal.output import Output
from services.cli.terminal.wording import counted
from services.common.command_errors import CommandError, UsageError
from services.common.durable_files import replace_file
from services.common.errors import NotFoundError

app = typer.Typer()


@app.command()
@shared_options
async def export(
    mesh: Mesh,
    output: Output,
    tenants: Annotated[list[str] | None, typer.Argument(metavar="TENANT", help="[all of them]")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="One file a tenant; else to stdout.")
    ] = None,
) -> None:
    """Write tenants as YAML, for review and version control; `tenant apply` takes it back."""
    async with mesh.admin() as admin:
        found = (
            [await admin.get_tenant(tenant) for tenant in tenants] if tenants else await admin.list_tenants()
        )
    documents = {short(tenant.name): declared_plain(tenant) for tenant in found}
    if out is None:
        _print_documents(output, documents)
        return
    changed = _write_documents(documents, out)
    if output.json:
        for tenant in documents:
            output.record(
                {"tenant": tenant, "file": str(out / f"{tenant}.yaml"), "changed": tenant in changed}
            )
        return
    output.line(f"{counted(len(documents), 'tenant')} in {out}, {len(changed)} of the files new or changed.")
    if not tenants:
        for stray in sorted(
            file for file in out.iterdir() if file.suffix in SUFFIXES and file.stem not in documents
        ):
            output.note(f"{stray} describes no tenant of this mesh; it was left as it is.")


def _print_documents(output: Output, documents: Mapping[str, Plain]) -> None:
    if output.json:
        for plain in documents.values():
            output.record(plain)
        return
    sys.stdout.write("---\n".join(to_yaml(plain) for plain in documents.values()))
    sys.stdout.flush()


def _write_documents(documents: Mapping[str, Plain], folder: Path) -> list[str]:
    """Write the documents that are new or differ; returns their tenants' ids."""
    changed = []
    try:
        for tenant, plain in documents.items():
            path, data = folder / f"{tenant}.yaml", to_yaml(plain).encode()
            if not path.exists() or path.read_bytes() != data:
                replace_file(path, data)
                changed.append(tenant)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"cannot write in {folder}: {error.strerror}.") from None
    return changed


@app.command()
@shared_options
async def apply(
    mesh: Mesh,
    output: Output,
    path: Annotated[
        Path,
        typer.Option(
            "--file", "-f", metavar="DIR|YAML", help="Tenants, as `tenant export` writes them; - is stdin."
        ),
    ],
    waiting: Waiting,
    *,
    prune: Annotated[
        bool,
        typer.Option("--prune", help="Also suspend and delete tenants that no file describes; needs --yes."),
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="List also the tenants that stay as they are.")
    ] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    reason: Reason = "",
) -> None:
    """Make tenants as files describe them. Shows a plan first; a second run has nothing to do.

    A file describes the whole tenant: a field that it leaves out has its default. All tenants are checked before
    any is changed.
    """
    if prune and not path.is_dir():
        raise UsageError("--prune compares with a whole directory.", "Give the directory with -f.")
    declared = read_declared(path)
    async with mesh.admin() as admin:
        plan = make_plan(declared, await _live(admin, declared, everything=prune), prune=prune)
        show_plan(output, plan, verbose=verbose)
        if count(plan, Action.UNCHANGED) == len(plan):
            # The last change may be a moment old, so routers may still be applying it.
            if not dry_run:
                await await_routers(admin, output, NEWEST_REVISION, waiting)
            return
        steps = StepsClient(admin, reason)
        await steps.check(plan)
        if dry_run:
            output.note("Valid; nothing was changed.")
            return
        _require_yes(output, plan, yes=yes)
        newest = 0
        async for done in steps.take(plan):
            show_done(output, done)
            newest = max(newest, done.revision)
        await await_routers(admin, output, newest, waiting)


def _require_yes(output: Output, plan: Sequence[Step], *, yes: bool) -> None:
    deletions = count(plan, Action.DELETE)
    if deletions and not yes:
        raise UsageError(
            f"nothing was changed: the plan deletes {counted(deletions, 'tenant')} for good.",
            "Repeat with --yes if you mean it.",
        )
    require_yes(output, "Apply this plan?", yes=yes)


async def _live(admin: AdminClient, declared: Sequence[Declared], *, everything: bool) -> dict[str, Tenant]:
    if everything:
        return {short(tenant.name): tenant for tenant in await admin.list_tenants()}
    found = {}
    for wanted in declared:
        try:
            found[wanted.tenant_id] = await admin.get_tenant(wanted.tenant_id)
        except NotFoundError:
            continue
    return found
