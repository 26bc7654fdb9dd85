"""`tenantry edge`: render."""

from __future__ import annotations

import importlib.util
import sys
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from services.cli.documents import read_document
from services.common.command_errors import CommandError, UsageError

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Make Envoy's config for any host.")


@app.callback()
def _group() -> None:
    """Make Envoy's config for any host."""


@app.command("render")
def render(
    *,
    spec: Annotated[
        Path | None,
        typer.Option("--spec", metavar="FILE", help="The edge's spec, YAML or JSON; - reads stdin."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Where to write; .json, .yaml or .pb. Default: stdout."),
    ] = None,
    example: Annotated[
        bool, typer.Option("--example", help="Print an annotated example of a spec instead.")
    ] = False,
) -> None:
    """Render an Envoy bootstrap from a spec.

    Check the result with `envoy --mode validate -c FILE` on the host it is for, where the files it names are.
    """
    if example == (spec is not None):
        raise UsageError("give either --spec FILE or --example.")
    if example:
        _give(resources.files("services.edge").joinpath("example.yaml").read_text("utf-8"), out)
        return
    assert spec is not None
    if importlib.util.find_spec("envoy_data_plane") is None:
        raise CommandError(
            "the package envoy-data-plane is missing.", "Install tenantry with the extra `local`."
        )
    from services.edge.bootstrap import build_json, write  # noqa: PLC0415  # only now known to be installed
    from services.edge.spec_document import SpecError, read_spec  # noqa: PLC0415  # as above

    try:
        rendered = read_spec(read_document(spec))
    except SpecError as error:
        raise _usage(spec, error.violations) from None
    if out is None:
        _give(build_json(rendered), None)
        return
    try:
        write(rendered, out)
    except ValueError as error:
        raise UsageError(f"--out: {error}.") from None


def _give(text: str, out: Path | None) -> None:
    if out is None:
        sys.stdout.write(text)
    else:
        out.write_text(text, "utf-8")


def _usage(path: Path, violations: tuple[tuple[str, str], ...]) -> UsageError:
    if len(violations) == 1:
        ((place, text),) = violations
        return UsageError(f"{path}: {place} {text}.")
    return UsageError(f"{path} has {len(violations)} errors.", details=violations)
