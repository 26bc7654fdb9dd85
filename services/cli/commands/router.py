"""`tenantry router`: list."""

from __future__ import annotations

import typer

from services.cli.commands.propagation import standing
from services.cli.invocation import shared_options
from services.cli.mesh import Mesh
from services.cli.terminal.output import Output
from services.cli.terminal.wording import enum_word, when_exactly

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Show the routers and their states.")


@app.callback()
def _group() -> None:
    """Show the routers and their states."""


@app.command("list")
@shared_options
async def list_(mesh: Mesh, output: Output) -> None:
    """List routers with the config revision each has applied and the time of its last heartbeat."""
    async with mesh.admin() as admin:
        routers = await admin.routers.list_routers()
    output.table(
        routers,
        ("ROUTER", "STATE", "REVISION", "LAST HEARD", ""),
        (
            (
                router.router,
                enum_word(router, "state"),
                str(router.applied_revision),
                when_exactly(router.heard_time),
                standing(router) if router.refused_revision else "",
            )
            for router in routers
        ),
        empty="No router has connected to the config service yet.",
    )
