"""The options that all commands have which change something."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

TenantId = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's name, for example acme.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, change nothing.")]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why. It is kept with the change.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
MAX_WAIT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """Whether a command waits until the routers have applied its change."""

    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until every router applied it; exit status 1 if one did not.")
    ] = False
    wait_seconds: Annotated[
        float,
        typer.Option(
            min=0.5, max=MAX_WAIT_SECONDS, metavar="S", help="With --wait: for at most so many seconds."
        ),
    ] = 10.0
