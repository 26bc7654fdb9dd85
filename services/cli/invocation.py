"""Turns a command's parameters into options of the command line, and adds the options that all commands share.

A parameter that is a dataclass becomes one option for each of its fields, so that commands can share groups of
options.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec, get_type_hints

import typer

from services.cli.given_text import expanded
from services.cli.mesh import Mesh
from services.cli.settings import read_settings
from services.cli.terminal.output import Output, quoted

P = ParamSpec("P")


def _mesh_option(metavar: str, text: str) -> Any:
    return typer.Option(metavar=metavar, help=text, rich_help_panel="Mesh")


def _output(
    *,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")] = False,
) -> tuple[Output]:
    return (Output(json=json),)


def _mesh_and_output(
    *,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")] = False,
    key_file: Annotated[
        Path | None, _mesh_option("FILE", "File with the key to call with; - is stdin.")
    ] = None,
    address: Annotated[
        str | None, _mesh_option("HOST:PORT", "The listener, if not the local mesh's.")
    ] = None,
    ca_file: Annotated[
        Path | None, _mesh_option("FILE", "PEM of the CA of the listener's certificate.")
    ] = None,
    state_dir: Annotated[Path | None, _mesh_option("DIR", "The local mesh's state directory.")] = None,
) -> tuple[Mesh, Output]:
    settings = read_settings()
    mesh = Mesh(
        settings=settings,
        state_dir=expanded(state_dir) if state_dir else settings.state_path,
        address=address,
        ca_file=ca_file,
        key_file=key_file,
    )
    chosen = f" --state-dir {quoted(mesh.state_dir)}" if state_dir else ""
    return mesh, Output(json=json, mesh_options=chosen)


def _group_options(group: type[Any]) -> Iterator[inspect.Parameter]:
    """A parameter for each field of a dataclass."""
    hints = get_type_hints(group, include_extras=True)
    for field in fields(group):
        default = inspect.Parameter.empty if field.default is MISSING else field.default
        yield inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[field.name]
        )


def _as_command(
    command: Callable[..., Coroutine[Any, Any, None] | None],
    shared: Callable[..., tuple[Any, ...]],
    given: int,
) -> Callable[..., None]:
    """A function of options only.

    Args:
        command: the command's own function.
        shared: makes its first arguments from the shared options.
        given: the number of those arguments.
    """
    own = list(inspect.signature(command, eval_str=True).parameters.values())[given:]
    groups: dict[str, type[Any]] = {
        parameter.name: parameter.annotation
        for parameter in own
        if isinstance(parameter.annotation, type) and is_dataclass(parameter.annotation)
    }
    common = inspect.signature(shared, eval_str=True).parameters
    options: list[inspect.Parameter] = []
    for parameter in own:
        if parameter.name in groups:
            options += _group_options(groups[parameter.name])
        else:
            options.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
    options += common.values()

    def run(**values: Any) -> None:
        first = shared(**{name: values.pop(name) for name in common})
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        outcome = command(*first, **values)
        if inspect.iscoroutine(outcome):
            asyncio.run(outcome)

    run.__name__ = command.__name__
    run.__doc__ = command.__doc__
    run.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]  # what typer reads
    run.__annotations__ = {option.name: option.annotation for option in options}
    return run


def shared_options(
    command: Callable[Concatenate[Mesh, Output, P], Coroutine[Any, Any, None] | None],
) -> Callable[..., None]:
    """Give a command the mesh and the output as its first two arguments, and their options to the caller.

    A coroutine function is run on an event loop of its own.
    """
    return _as_command(command, _mesh_and_output, given=2)


def offline_options(command: Callable[Concatenate[Output, P], None]) -> Callable[..., None]:
    """Give a command that makes no call the output as its first argument."""
    return _as_command(command, _output, given=1)
