"""`tenantry model`: create, get, list, delete."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from tenantry.config.v1.pool_pb2 import BaseModel

from services.cli.clients.names import model_name, short
from services.cli.commands.change_options import Reason
from services.cli.documents import read_document, to_message
from services.cli.invocation import shared_options
from services.cli.mesh import Mesh
from services.cli.terminal.output import Output
from services.cli.terminal.wording import short_digest

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Register and show base models.")

ModelId = Annotated[str, typer.Argument(metavar="MODEL", help="The base model's name.")]


@app.command()
@shared_options
async def create(
    mesh: Mesh,
    output: Output,
    model: ModelId,
    file: Annotated[
        Path, typer.Option(metavar="YAML", help="The model, in the form that `model get` prints.")
    ],
    reason: Reason = "",
) -> None:
    """Register a base model whose artifacts are in the artifact store."""
    wanted = to_message(read_document(file), BaseModel(), str(file))
    async with mesh.admin() as admin:
        output.result(await admin.catalog.create_base_model(short(model), wanted, reason=reason))


@app.command()
@shared_options
async def get(mesh: Mesh, output: Output, model: ModelId) -> None:
    """Show a base model."""
    async with mesh.admin() as admin:
        output.result(await admin.catalog.get_base_model(model))


@app.command("list")
@shared_options
async def list_(mesh: Mesh, output: Output) -> None:
    """List base models."""
    async with mesh.admin() as admin:
        models = await admin.catalog.list_base_models()
    output.table(
        models,
        ("MODEL", "CONTEXT", "LAYERS", "HIDDEN", "VOCABULARY", "WEIGHTS"),
        (
            (
                short(model.name),
                str(model.context_tokens),
                str(model.architecture.layers),
                str(model.architecture.hidden),
                str(model.architecture.vocabulary),
                short_digest(model.weights_sha256),
            )
            for model in models
        ),
        empty="There are no base models yet. Register one: tenantry model create NAME --file YAML",
    )


@app.command()
@shared_options
async def delete(mesh: Mesh, output: Output, model: ModelId, reason: Reason = "") -> None:
    """Delete a base model that no tenant, adapter or pool refers to. Its artifacts stay."""
    async with mesh.admin() as admin:
        revision = await admin.catalog.delete_base_model(model, reason=reason)
    name = model_name(model)
    if output.json:
        output.record({"name": name, "deleted": True, "revision": revision})
    else:
        output.line(f"{name}: deleted.")
