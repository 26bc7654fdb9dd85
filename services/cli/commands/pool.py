"""`tenantry pool`: create, get, list."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from tenantry.config.v1.pool_pb2 import Pool

from services.cli.clients.names import short
from services.cli.commands.change_options import Reason
from services.cli.documents import read_document, to_message
from services.cli.invocation import shared_options
from services.cli.mesh import Mesh
from services.cli.terminal.output import Output
from services.cli.terminal.wording import enum_word

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Register and show pools of model servers."
)

PoolId = Annotated[str, typer.Argument(metavar="POOL", help="The pool's name.")]


@app.command()
@shared_options
async def create(
    mesh: Mesh,
    output: Output,
    pool: PoolId,
    file: Annotated[Path, typer.Option(metavar="YAML", help="The pool, as `pool get` prints one.")],
    reason: Reason = "",
) -> None:
    """Register a pool of endpoints that serve one base model the same way."""
    wanted = to_message(read_document(file), Pool(), str(file))
    async with mesh.admin() as admin:
        output.result(await admin.catalog.create_pool(short(pool), wanted, reason=reason))


@app.command()
@shared_options
async def get(mesh: Mesh, output: Output, pool: PoolId) -> None:
    """Show a pool."""
    async with mesh.admin() as admin:
        output.result(await admin.catalog.get_pool(pool))


@app.command("list")
@shared_options
async def list_(mesh: Mesh, output: Output) -> None:
    """List pools."""
    async with mesh.admin() as admin:
        pools = await admin.catalog.list_pools()
    output.table(
        pools,
        ("POOL", "MODEL", "DIALECT", "ENDPOINTS", "REQUESTS", "ADAPTERS", "DEDICATED TO"),
        (
            (
                short(pool.name),
                short(pool.base_model),
                enum_word(pool, "dialect"),
                str(len(pool.endpoints)),
                str(pool.capacity.concurrent_requests),
                str(pool.capacity.adapters),
                short(pool.dedicated_to),
            )
            for pool in pools
        ),
        empty="There are no pools yet. Register one: tenantry pool create NAME --file YAML",
    )
