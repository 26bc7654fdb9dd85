"""`tenantry adapter`: register, get, list."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from tenantry.config.v1.adapter_pb2 import Adapter

from services.cli.clients.names import short
from services.cli.commands.change_options import Reason, TenantId, Waiting
from services.cli.commands.propagation import NEWEST_REVISION, await_routers
from services.cli.given_text import read_bytes
from services.cli.invocation import shared_options
from services.cli.mesh import Mesh
from services.cli.terminal.output import Output, quoted
from services.cli.terminal.wording import short_digest, size, when
from services.common.command_errors import UsageError

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Register and show a tenant's LoRA adapters."
)

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
# Above what the service takes: it knows the limit, this only ends the reading of a device.
_MAX_ADAPTER_BYTES = 1 << 30
AdapterId = Annotated[str, typer.Argument(metavar="ADAPTER", help="The adapter's name in the tenant.")]


@app.command()
@shared_options
async def register(
    mesh: Mesh,
    output: Output,
    tenant: TenantId,
    adapter: AdapterId,
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A PEFT adapter, as save_pretrained writes it.")
    ],
    *,
    base_model: Annotated[str, typer.Option(metavar="MODEL", help="The base model it was trained on.")],
    reason: Reason = "",
    waiting: Waiting,
) -> None:
    """Register an adapter. An adapter that exists gets one more version."""
    files = read_adapter(folder)
    async with mesh.admin() as admin:
        registered = await admin.catalog.register_adapter(
            tenant, short(adapter), base_model, files, reason=reason
        )
        if output.json:
            output.result(registered)
        else:
            newest = registered.versions[-1] if registered.versions else None
            output.line(f"{registered.name}: version {newest.version if newest else 0} registered.")
        await await_routers(admin, output, NEWEST_REVISION, waiting)
    name, own = quoted(short(tenant)), quoted(short(adapter))
    output.suggest("Use it", f"tenantry tenant update {name} --adapter {own}")


@app.command()
@shared_options
async def get(mesh: Mesh, output: Output, tenant: TenantId, adapter: AdapterId) -> None:
    """Show an adapter with its versions and renditions."""
    async with mesh.admin() as admin:
        output.result(await admin.catalog.get_adapter(tenant, adapter))


@app.command("list")
@shared_options
async def list_(mesh: Mesh, output: Output, tenant: TenantId) -> None:
    """List a tenant's adapters with their newest versions."""
    async with mesh.admin() as admin:
        adapters = await admin.catalog.list_adapters(tenant)
    output.table(
        adapters,
        ("ADAPTER", "VERSION", "BASE MODEL", "RANK", "SIZE", "SHA256", "REGISTERED"),
        (_row(adapter) for adapter in adapters),
        empty=f"{short(tenant)} has no adapters yet. Register one: "
        f"tenantry adapter register {quoted(short(tenant))} NAME DIR --base-model MODEL",
    )


def _row(adapter: Adapter) -> tuple[str, ...]:
    if not adapter.versions:
        return (short(adapter.name), "", "", "", "", "", "")
    newest = adapter.versions[-1]
    return (
        short(adapter.name),
        f"v{newest.version}",
        short(newest.base_model),
        str(newest.rank),
        size(max((rendition.size_bytes for rendition in newest.renditions), default=0)),
        short_digest(newest.source_sha256),
        when(newest.create_time),
    )


def read_adapter(folder: Path) -> dict[str, bytes]:
    """The two files of a PEFT adapter.

    Raises:
        UsageError: says which file is missing or cannot be read.
    """
    files: dict[str, bytes] = {}
    for name in ADAPTER_FILES:
        try:
            files[name] = read_bytes(folder / name, "an adapter", _MAX_ADAPTER_BYTES)
        except UsageError as error:
            raise UsageError(
                error.message, f"A PEFT adapter is a directory with {' and '.join(ADAPTER_FILES)}."
            ) from None
        if not files[name]:
            raise UsageError(f"{folder / name} is empty.")
    return files
