"""Options every command shares, added to a command's own in one place."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec

import typer

from services.cli.mesh import Mesh
from services.cli.output import Output
from services.cli.settings import CliSettings

P = ParamSpec("P")


def _mesh_option(metavar: str, text: str) -> Any:
    return typer.Option(metavar=metavar, help=text, rich_help_panel="Mesh")


def _shared(
    *,
    ctx: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")] = False,
    key_file: Annotated[
        Path | None, _mesh_option("FILE", "Holds the key to call with; - reads stdin.")
    ] = None,
    address: Annotated[str | None, _mesh_option("HOST:PORT", "The listener, if not the local one.")] = None,
    ca_file: Annotated[Path | None, _mesh_option("FILE", "PEM of the CA that signed the listener's.")] = None,
    state_dir: Annotated[Path | None, _mesh_option("DIR", "The local mesh's state directory.")] = None,
) -> tuple[Mesh, Output]:
    settings = CliSettings()
    output = Output(json=json)
    # Whoever reports a failure of the command must know how the caller reads.
    ctx.find_root().obj = output
    mesh = Mesh(
        settings=settings,
        state_dir=state_dir.expanduser() if state_dir else settings.state_path,
        address=address,
        ca_file=ca_file,
        key_file=key_file,
    )
    return mesh, output


_SHARED = inspect.signature(_shared, eval_str=True).parameters


def shared_options(
    command: Callable[Concatenate[Mesh, Output, P], Coroutine[Any, Any, None] | None],
) -> Callable[..., None]:
    """Give a command the mesh and the output as its first two arguments, and their options to the caller.

    A coroutine function is run on an event loop of its own.
    """
    own = list(inspect.signature(command, eval_str=True).parameters.values())[2:]

    def run(*args: P.args, **values: P.kwargs) -> None:
        mesh, output = _shared(**{name: values.pop(name) for name in _SHARED})  # type: ignore[arg-type]  # by signature
        outcome = command(mesh, output, *args, **values)
        if inspect.iscoroutine(outcome):
            asyncio.run(outcome)

    parameters = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*own, *_SHARED.values())
    ]
    run.__name__ = command.__name__
    run.__doc__ = command.__doc__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run
