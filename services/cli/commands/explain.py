"""`tenantry explain`: what config fields mean, offline."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from services.cli.invocation import offline_options
from services.cli.reference.catalog import Catalog, Place, UnknownPathError, load
from services.cli.reference.documents import DOCUMENTS
from services.cli.reference.example import annotated_example
from services.cli.reference.explanation import as_record, choice_terms, fact_terms, field_terms
from services.cli.reference.schema import json_schema
from services.cli.terminal.output import Output
from services.common.command_errors import UsageError

_CALLS = "calls"
_ANYBODY = "tenant-admin"


@offline_options
def explain(
    output: Output,
    path: Annotated[
        str | None, typer.Argument(metavar="PATH", help="For example tenant.config.limits [what there is].")
    ] = None,
    *,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Also the fields of fields.")] = False,
    schema: Annotated[
        bool, typer.Option("--json-schema", help="Print a JSON Schema for editors: tenant, pool or model.")
    ] = False,
    example: Annotated[
        bool, typer.Option("--example", help="Print an annotated example document: tenant or pool.")
    ] = False,
) -> None:
    """Explain config fields: meaning, type, default, bounds, choices, and who may set them. Asks no mesh."""
    catalog = load()
    if schema and example:
        raise UsageError("--json-schema and --example are two different documents.", "Give one of them.")
    if schema:
        sys.stdout.write(json.dumps(json_schema(_document(path, tuple(DOCUMENTS)), catalog), indent=2) + "\n")
    elif example:
        sys.stdout.write(annotated_example(_document(path, ("tenant", "pool")), catalog))
    elif path is None:
        _topics(output, catalog)
    elif path == _CALLS:
        _calls(output, catalog)
    else:
        _place(output, catalog, _found(catalog, path), recursive=recursive)


def _document(path: str | None, topics: tuple[str, ...]) -> str:
    if path in topics:
        return str(path)
    raise UsageError(
        f"there is none for {path}." if path else "for which document?", f"Give one of: {', '.join(topics)}."
    )


def _found(catalog: Catalog, path: str) -> Place:
    try:
        return catalog.find(path)
    except UnknownPathError as error:
        meant = " or ".join(error.nearest)
        raise UsageError(
            f"{error.part} is not a field{f' in {path}' if path != error.part else ''}.",
            f"Did you mean {meant}?" if meant else "`tenantry explain` lists what there is.",
        ) from None


def _topics(output: Output, catalog: Catalog) -> None:
    topics = [(topic, catalog.messages[name].about) for topic, name in catalog.topics.items()]
    topics.append((_CALLS, "The calls of the admin API. Their messages are explained by name."))
    if output.json:
        for topic, about in topics:
            output.record({"path": topic, "about": about})
        return
    output.terms((topic, about, "") for topic, about in topics)
    output.note("Go on with a path, for example: tenantry explain tenant.config.limits")


def _calls(output: Output, catalog: Catalog) -> None:
    for call in catalog.calls.values() if output.json else ():
        output.record(
            {
                "call": call.name,
                "about": call.about,
                "role": call.role,
                "request": call.request,
                "response": call.response,
            }
        )
    if output.json:
        return
    output.terms(
        (
            call.name,
            call.about,
            f"{call.request} → {call.response}" + (f" · {call.role} only" if call.role != _ANYBODY else ""),
        )
        for call in catalog.calls.values()
    )


def _place(output: Output, catalog: Catalog, place: Place, *, recursive: bool) -> None:
    if output.json:
        output.record(as_record(catalog, place, recursive=recursive))
        return
    about = place.field.about if place.field else place.message.about if place.message else ""
    output.line(place.path, style="bold")
    output.paragraph(about)
    sections = [
        ("", [(word, value, "") for word, value in fact_terms(catalog, place)]),
        ("CHOICES", [(name, meaning, "") for name, meaning in choice_terms(catalog, place)]),
    ]
    if place.message is not None:
        if place.field is not None and place.message.about != about:
            output.paragraph(place.message.about)
        sections.append(("FIELDS", list(field_terms(catalog, place, recursive=recursive))))
    for heading, terms in sections:
        if terms:
            output.line("")
            if heading:
                output.line(heading, style="bold")
            output.terms(terms)
