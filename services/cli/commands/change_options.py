"""Options that commands which change something have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

TenantId = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's name, for example acme.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, change nothing.")]
Reason = Annotated[
    str, typer.Option("--reason", metavar="TEXT", help="Why: kept with the change, for whoever looks later.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
MAX_WAIT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """Whether a command ends only when the routers have applied its change."""

    wait: Annotated[
        bool, typer.Option("--wait", help="Until every router applied it; exit status 1 if one has not.")
    ] = False
    wait_seconds: Annotated[
        float, typer.Option(min=0.5, max=MAX_WAIT_SECONDS, metavar="S", help="With --wait: at most so long.")
    ] = 10.0
