"""`tenantry key`: create, list, revoke."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from tenantry.config.v1.config_admin_service_pb2 import CreateKeyResponse
from tenantry.config.v1.credential_pb2 import Key, OperatorRole

from services.cli.clients.admin import AdminClient
from services.cli.clients.names import operator_name, short, tenant_name
from services.cli.commands.change_options import Reason, Waiting
from services.cli.commands.propagation import await_routers
from services.cli.documents import to_plain
from services.cli.invocation import shared_options
from services.cli.mesh import Mesh
from services.cli.terminal.output import Output, quoted
from services.cli.terminal.wording import day, enum_word, when
from services.common.command_errors import CommandError, UsageError
from services.common.durable_files import create_file
from services.common.errors import Error

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Issue, list and revoke keys.")


class Role(StrEnum):
    """The role of an operator."""

    PLATFORM_ADMIN = "platform-admin"
    TENANT_ADMIN = "tenant-admin"


Principal = Annotated[str, typer.Argument(metavar="NAME", help="The tenant; with --operator, the operator.")]
IsOperator = Annotated[bool, typer.Option("--operator", help="NAME is an operator, not a tenant.")]


@app.command()
@shared_options
async def create(
    mesh: Mesh,
    output: Output,
    name: Principal,
    *,
    operator: IsOperator = False,
    role: Annotated[Role | None, typer.Option(metavar="ROLE", help="platform-admin or tenant-admin.")] = None,
    role_tenant: Annotated[
        str | None, typer.Option(metavar="TENANT", help="The tenant of a tenant-admin.")
    ] = None,
    display_name: Annotated[str, typer.Option(metavar="TEXT", help="A name for people.")] = "",
    days: Annotated[
        int | None, typer.Option(min=1, max=366, metavar="N", help="Days until it expires [90].")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the secret to this file (mode 0600), not to stdout."),
    ] = None,
    reason: Reason = "",
    waiting: Waiting,
) -> None:
    """Issue a key. Its secret is shown once; the mesh does not keep it and cannot show it again."""
    if operator and role is None:
        raise UsageError("an operator's key needs a role.", "Give --role platform-admin or tenant-admin.")
    if not operator and (role or role_tenant):
        raise UsageError("--role and --role-tenant are for operators' keys.", "Give --operator too.")
    if out is not None and out.exists():
        raise UsageError(f"{out} exists already and is left alone.", "Give --out another path.")
    key = Key(display_name=display_name)
    if role is not None:
        key.role = OperatorRole.Value(f"OPERATOR_ROLE_{role.name}")
    if role_tenant is not None:
        key.role_tenant = tenant_name(role_tenant)
    if days is not None:
        key.expire_time.FromDatetime(datetime.now(UTC) + timedelta(days=days))
    async with mesh.admin() as admin:
        answer = await admin.create_key(_parent(name, operator=operator), key, reason=reason)
        if out is not None:
            await _keep(admin, answer, out)
        _show(output, answer, out, operator=operator)
        await await_routers(admin, output, answer.key.revision, waiting)


async def _keep(admin: AdminClient, answer: CreateKeyResponse, out: Path) -> None:
    try:
        create_file(out, answer.secret.encode() + b"\n")
    except OSError as error:
        cannot = f"cannot write {out}: {error.strerror}"
        try:
            # Without its secret the key is of no use, and should open nothing.
            await admin.revoke_key(answer.key.name)
        except Error as refusal:
            raise CommandError(
                f"{cannot}; and the new key {answer.key.name} could not be revoked: {refusal.message}.",
                "Revoke it with `tenantry key revoke`, then repeat elsewhere.",
            ) from None
        raise CommandError(f"{cannot}; the new key was revoked.", "Repeat elsewhere.") from None


@app.command("list")
@shared_options
async def list_(mesh: Mesh, output: Output, name: Principal, operator: IsOperator = False) -> None:
    """List a principal's keys: who issued each, when and why. Secrets and last uses are not recorded."""
    async with mesh.admin() as admin:
        keys = await admin.list_keys(_parent(name, operator=operator))
    keys.sort(key=lambda key: key.create_time.ToNanoseconds())
    columns, rows = _listing(keys, operator=operator)
    output.table(
        keys,
        columns,
        rows,
        empty=f"{name} has no keys yet. Issue one: tenantry key create {quoted(name)}",
    )


def _listing(keys: Sequence[Key], *, operator: bool) -> tuple[list[str], list[list[str]]]:
    """Headings and rows, without the columns that are empty in every row."""
    cells: dict[str, list[str]] = {
        "KEY": [short(key.name) for key in keys],
        "STATE": [enum_word(key, "state") for key in keys],
        "EXPIRES": [day(key.expire_time) for key in keys],
        "CREATED": [day(key.create_time) for key in keys],
        "BY": [short(key.creator) for key in keys],
        "ROLE" if operator else "SCOPES": [
            _role_words(key) if operator else ", ".join(key.scopes) for key in keys
        ],
        "NAME": [key.display_name for key in keys],
        "REASON": [key.reason for key in keys],
    }
    shown = {heading: column for heading, column in cells.items() if any(column)}
    return list(shown), [list(row) for row in zip(*shown.values(), strict=True)]


@app.command()
@shared_options
async def revoke(
    mesh: Mesh,
    output: Output,
    name: Principal,
    key: Annotated[str, typer.Argument(metavar="KEY", help="The key's id, as `key list` shows it.")],
    waiting: Waiting,
    *,
    operator: IsOperator = False,
    reason: Reason = "",
) -> None:
    """Revoke a key for good; connected routers refuse it within two seconds."""
    async with mesh.admin() as admin:
        revoked = await admin.revoke_key(
            f"{_parent(name, operator=operator)}/keys/{short(key)}", reason=reason
        )
        if output.json:
            output.result(revoked)
        else:
            output.line(f"{revoked.name}: revoked {when(revoked.revoke_time)}.")
        await await_routers(admin, output, revoked.revision, waiting)


def _parent(name: str, *, operator: bool) -> str:
    return operator_name(name) if operator else tenant_name(name)


def _role_words(key: Key) -> str:
    return enum_word(key, "role") + (f" of {short(key.role_tenant)}" if key.role_tenant else "")


def _show(output: Output, answer: CreateKeyResponse, out: Path | None, *, operator: bool) -> None:
    file = quoted(out or "FILE")
    if output.json:
        record = {"key": to_plain(answer.key)}
        output.record(record if out else {**record, "secret": answer.secret})
    elif out is None:
        output.secret(answer.secret)
    else:
        output.line(f"{answer.key.name}: written to {out}, expires {when(answer.key.expire_time)}.")
    if out is None:
        output.note(f"{answer.key.name}, expires {when(answer.key.expire_time)}.")
        output.note("This is the only time the secret is shown: put it into a file only you can read.")
    output.suggest("Use it", f"tenantry {'tenant list' if operator else 'chat'} --key-file {file}")
