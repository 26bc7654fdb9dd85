"""The `tenantry` command: its subcommands, and the one place where a failure becomes a message and an exit status.

Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import faulthandler
import importlib
import inspect
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from services.cli.given_text import readable_arguments
from services.cli.terminal.settings import settle_width
from services.cli.terminal.standard_streams import drop_output, end_process, flush_streams, prepare_streams
from services.common.command_errors import FAILURE_STATUS, UsageError

# A name, the place of its command, and its line of `--help`. The module is imported when the command is called.
SUBCOMMANDS: dict[str, tuple[str, str]] = {
    "up": ("services.cli.commands.up:up", "Run the whole mesh here, demo tenants included."),
    "chat": ("services.cli.commands.chat:chat", "Ask a tenant's model, once or in a conversation."),
    "explain": (
        "services.cli.commands.explain:explain",
        "Explain config fields; print a schema or an example.",
    ),
    "tenant": ("services.cli.commands.tenant:app", "Create, show and change tenants."),
    "key": ("services.cli.commands.key:app", "Issue, list and revoke keys."),
    "adapter": ("services.cli.commands.adapter:app", "Register and show a tenant's LoRA adapters."),
    "model": ("services.cli.commands.model:app", "Register and show base models."),
    "pool": ("services.cli.commands.pool:app", "Register and show pools of model servers."),
    "router": ("services.cli.commands.router:app", "Show the routers and their states."),
    "edge": ("services.cli.commands.edge:app", "Make Envoy's config for any host."),
    "operator": ("services.cli.commands.operator:app", "Show what operators changed, when and why."),
    "audit": ("services.cli.commands.audit:app", "Export a tenant's audit log and verify it offline."),
}


class SubcommandGroup(TyperGroup):
    """Loads a subcommand when it is called, and reports how it failed."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        # Names and short helps, for `--help` and suggestions, without an import.
        for name, (_, summary) in SUBCOMMANDS.items():
            self.add_command(TyperCommand(name, help=summary))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Import the command and return it."""
        name, command, rest = super().resolve_command(ctx, args)
        return (name, _load(name), rest) if name else (name, command, rest)

    def get_params(self, ctx: Any) -> list[Any]:
        """The options, as `_show_plainly` leaves them."""
        params = super().get_params(ctx)
        _show_plainly(params)
        return params

    def main(self, args: Sequence[str] | None = None, *rest: Any, **attributes: Any) -> Any:
        """Run the command line to its end: every failure becomes a message and an exit status."""
        given = sys.argv[1:] if args is None else list(args)
        json = "--json" in given[: given.index("--")] if "--" in given else "--json" in given
        try:
            settle_width()
            status = super().main(
                readable_arguments(given), *rest, **{**attributes, "standalone_mode": False}
            )
            flush_streams()
        except BrokenPipeError:
            # The reader of the output has seen enough.
            drop_output(sys.stdout)
            sys.exit(FAILURE_STATUS)
        except Exception as error:  # noqa: BLE001  # the outermost place: nothing is above it
            sys.exit(_report(error, json=json))
        sys.exit(status if isinstance(status, int) else 0)


def _report(error: BaseException, *, json: bool) -> int:
    from services.cli.terminal.ending import report_ending  # noqa: PLC0415  # --help stays fast

    return report_ending(error, json=json)


def _load(name: str) -> Any:
    from services.cli.settings import silence_grpc  # noqa: PLC0415  # --help stays fast

    silence_grpc()
    module, _, attribute = SUBCOMMANDS[name][0].partition(":")
    found = getattr(importlib.import_module(module), attribute)
    if not isinstance(found, typer.Typer):
        single = typer.Typer(add_completion=False)
        single.command(name)(found)
        found = single
    command = typer.main.get_command(found)
    command.name = name
    for part in (command, *getattr(command, "commands", {}).values()):
        _show_plainly(part.get_params(typer.Context(part)))
        part.help = _reflowed(part.help or "")
    return command


def _show_plainly(params: list[Any]) -> None:
    """Leave out the type of an option that takes no value, and show square brackets, which Rich takes for styles."""
    for param in params:
        if getattr(param, "is_bool_flag", False) and param.metavar is None:
            param.metavar = ""
        if param.help and "\\[" not in param.help:
            param.help = param.help.replace("[", "\\[")


def _reflowed(text: str) -> str:
    """A docstring whose paragraphs wrap at the width of the terminal, not at that of the source."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


app = typer.Typer(
    cls=SubcommandGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="A mesh that lets many tenants share one set of GPUs.",
    epilog="Start with `tenantry up`, then `tenantry chat --tenant acme`.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415  # --help stays fast

        sys.stdout.write(f"tenantry {version('tenantry')}\n")
        raise typer.Exit


@app.callback()
def _root(
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """A mesh that lets many tenants share one set of GPUs."""


def main() -> NoReturn:
    """Run the command named on the command line, and end the process."""
    try:
        prepare_streams()
        # Native code runs in this process: if it crashes, the stacks say where.
        faulthandler.enable()
        app(prog_name="tenantry")
    except UsageError as error:
        end_process(_report(error, json=False))
    except SystemExit as ending:
        end_process(ending.code if isinstance(ending.code, int) else 0)
    end_process(0)
