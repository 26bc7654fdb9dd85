"""`tenantry tenant`: create, get, list, update. The modules `tenant_*` beside this one have the other commands."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from tenantry.config.v1.tenant_pb2 import Tenant, TenantConfig

from services.cli.clients.admin import AdminClient
from services.cli.clients.names import TENANT_ID_FORM, is_tenant_id, short
from services.cli.commands import tenant_documents, tenant_states, tenant_usage, tenant_versions
from services.cli.commands.change_options import DryRun, Reason, TenantId, Waiting
from services.cli.commands.propagation import await_routers
from services.cli.declarative.declared import read_tenant
from services.cli.declarative.effective_tenant import annotated_tenant, effective_record
from services.cli.declarative.tenant_changes import TenantChanges
from services.cli.given_text import as_text, read_bytes
from services.cli.invocation import shared_options
from services.cli.mesh import Mesh
from services.cli.terminal.output import Output
from services.cli.terminal.wording import enum_word, when
from services.common.command_errors import UsageError
from services.common.errors import AlreadyExistsError, NotFoundError

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Create, show and change tenants.")

# Above what the service takes: it knows the limit, this only ends the reading of a device.
_MAX_PROMPT_BYTES = 1 << 22
File = Annotated[
    Path | None, typer.Option(metavar="YAML", help="A tenant as `tenant get` or `tenant export` writes it.")
]


@app.command()
@shared_options
async def create(
    mesh: Mesh,
    output: Output,
    tenant: TenantId,
    changes: TenantChanges,
    *,
    file: File = None,
    reason: Reason = "",
    dry_run: DryRun = False,
) -> None:
    """Create a tenant. Its adapters come next: `adapter register`, then `tenant update --adapter`."""
    if changes.adapter:
        raise UsageError(
            "a new tenant has no adapters yet.",
            "Create it, then `adapter register`, `tenant update --adapter`.",
        )
    if not is_tenant_id(short(tenant)):
        raise UsageError(f"{short(tenant)} cannot be a tenant's name: {TENANT_ID_FORM}.")
    draft = read_tenant(file) if file else Tenant(config=TenantConfig())
    _complete(changes).apply(draft)
    async with mesh.admin() as admin:
        if not draft.config.models:
            await _require_new(admin, tenant)
            raise UsageError(
                "a tenant needs a model.", "Give --base-model; `tenantry model list` shows them."
            )
        created = await admin.create_tenant(
            short(tenant),
            draft.config,
            display_name=draft.display_name,
            reason=reason,
            validate_only=dry_run,
        )
    output.result(created)
    if dry_run:
        output.note("Valid; nothing was created.")
    else:
        output.suggest("Next", f"tenantry key create {short(tenant)} --out {short(tenant)}.key")


async def _require_new(admin: AdminClient, tenant: str) -> None:
    """Name the reason that no option mends: the tenant exists."""
    try:
        await admin.get_tenant(short(tenant))
    except NotFoundError:
        return
    raise AlreadyExistsError("a tenant of this name exists")


@app.command()
@shared_options
async def get(
    mesh: Mesh,
    output: Output,
    tenant: TenantId,
    form: Annotated[
        str, typer.Option("--output", "-o", metavar="yaml|json", help="The form of the output.")
    ] = "yaml",
) -> None:
    """Show a tenant with the config in force, and the defaults of what is not set.

    In YAML the defaults are comments, so that `tenant update --file` takes the document as it is.
    """
    if form not in ("yaml", "json"):
        raise UsageError(f"-o {form} is not a form of output.", "Give -o yaml or -o json.")
    async with mesh.admin() as admin:
        found = await admin.get_tenant(tenant)
    if form == "json" or output.json:
        output.record(effective_record(found))
    else:
        sys.stdout.write(annotated_tenant(found))
        sys.stdout.flush()


@app.command("list")
@shared_options
async def list_(
    mesh: Mesh,
    output: Output,
    wanted: Annotated[
        str,
        typer.Option(
            "--filter",
            metavar="TERMS",
            help="Terms on state, pool and display_name; = is equal, : is contains. For example "
            """'state = SUSPENDED AND pool = "pools/x"'.""",
        ),
    ] = "",
) -> None:
    """List tenants: all, or those that --filter matches."""
    async with mesh.admin() as admin:
        tenants = await admin.list_tenants(wanted)
    output.table(
        tenants,
        ("TENANT", "STATE", "CONFIG", "TIER", "MODELS", "UPDATED"),
        (
            (
                short(tenant.name),
                enum_word(tenant, "state"),
                f"v{tenant.config_version}",
                enum_word(tenant.config, "isolation_tier") or "isolated",
                ", ".join(_model_words(tenant)),
                when(tenant.update_time),
            )
            for tenant in tenants
        ),
        empty="No tenant matches the filter."
        if wanted
        else "There are no tenants yet. Create one: tenantry tenant create acme --base-model smollm2",
    )


@app.command()
@shared_options
async def update(
    mesh: Mesh,
    output: Output,
    tenant: TenantId,
    changes: TenantChanges,
    *,
    waiting: Waiting,
    file: File = None,
    reason: Reason = "",
    dry_run: DryRun = False,
) -> None:
    """Change a tenant: only the fields that are given. A changed config becomes the next version."""
    if file is None and changes == TenantChanges():
        raise UsageError("no change was given.", "Give --file or one of the options; see --help.")
    changes = _complete(changes)
    wanted = read_tenant(file) if file else None
    async with mesh.admin() as admin:
        before = await admin.get_tenant(tenant)
        after = _next_state(before, wanted, changes)
        updated = await admin.update_tenant(
            after, paths=("display_name", "config"), reason=reason, validate_only=dry_run
        )
        if output.json:
            output.result(updated)
        else:
            output.line(_outcome(before, updated, dry_run=dry_run))
        if not dry_run:
            await await_routers(admin, output, updated.revision, waiting)


def _next_state(before: Tenant, wanted: Tenant | None, changes: TenantChanges) -> Tenant:
    after = Tenant()
    after.CopyFrom(before)
    if wanted is not None:
        after.CopyFrom(wanted)
        if after.name and after.name != before.name:
            raise UsageError(f"the file describes {after.name}, not {before.name}.")
        after.name = before.name
        # A file without an etag overwrites the present state.
        after.etag = wanted.etag or before.etag
    changes.apply(after)
    return after


def _outcome(before: Tenant, updated: Tenant, *, dry_run: bool) -> str:
    if dry_run:
        return f"{updated.name}: valid; nothing was changed."
    if updated.etag == before.etag:
        return f"{updated.name}: nothing to change; its config stays at version {updated.config_version}."
    if updated.config_version == before.config_version:
        return f"{updated.name}: updated; its config stays at version {updated.config_version}."
    return (
        f"{updated.name}: config version {updated.config_version} (was {before.config_version}), "
        f"sha256 {updated.config_sha256[:12]}."
    )


def _complete(changes: TenantChanges) -> TenantChanges:
    """Read the system prompt from its file, if it names one."""
    prompt = changes.system_prompt
    if prompt is None or not prompt.startswith("@"):
        return changes
    data = read_bytes(Path(prompt[1:]), "the system prompt", _MAX_PROMPT_BYTES)
    return replace(changes, system_prompt=as_text(data, prompt[1:]).rstrip("\n"))


def _model_words(tenant: Tenant) -> list[str]:
    return [
        model.alias
        + (f"={short(model.base_model)}" if short(model.base_model) != model.alias else "")
        + (f"+{model.adapter}" if model.adapter else "")
        for model in tenant.config.models
    ]


for _part in (tenant_versions.app, tenant_usage.app, tenant_states.app, tenant_documents.app):
    # Without a name, so that their commands stand beside these.
    app.add_typer(_part)
