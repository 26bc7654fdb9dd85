"""Tenants declared in YAML: what `tenant export` writes and `tenant apply` reads.

A document has the keys `tenant`, `display_name` and `config`, and describes the whole tenant: a field that it leaves
out has its default. It has no fields that only the service sets, such as uids, versions and times.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tenantry.config.v1.tenant_pb2 import Tenant

from services.cli.clients.names import is_tenant_id, short, tenant_name
from services.cli.declarative.effective_tenant import EFFECTIVE_KEYS
from services.cli.document_fields import field_problems, not_a_field
from services.cli.documents import Plain, read_document, read_documents, to_message, to_plain
from services.common.command_errors import CommandError, UsageError

SUFFIXES = (".yaml", ".yml")
FIELDS = ("display_name", "config")
_KEYS = ("tenant", *FIELDS)


@dataclass(frozen=True, slots=True)
class Declared:
    """One tenant, as a document describes it."""

    tenant_id: str
    tenant: Tenant
    """Only display name and config are filled."""
    source: str
    """The file, for messages."""


def declared_plain(tenant: Tenant) -> Plain:
    """Make a tenant's document. Equal tenants give the same fields in the same order.

    Raises:
        CommandError: the tenant has fields that this version does not know and the document would lose.
    """
    require_known(tenant)
    whole = to_plain(declared_part(tenant))
    return {"tenant": short(tenant.name)} | {field: whole[field] for field in FIELDS if field in whole}


def declared_part(tenant: Tenant) -> Tenant:
    """Copy the part of a tenant that a document can describe."""
    return Tenant(
        display_name=tenant.display_name, config=tenant.config if tenant.HasField("config") else None
    )


def require_known(tenant: Tenant) -> None:
    """Refuse a tenant with fields of a newer contract, since writing it back would remove them.

    Raises:
        CommandError: the tenant has such fields.
    """
    known = Tenant()
    known.CopyFrom(tenant)
    known.DiscardUnknownFields()
    if known.ByteSize() != tenant.ByteSize():
        raise CommandError(
            f"{tenant.name} has fields this version of the command does not know.",
            "Use the version of the command that the mesh runs; this one would remove them.",
        )


def read_declared(path: Path) -> list[Declared]:
    """Read every tenant in a file, or in the `*.yaml` and `*.yml` files of a directory, sorted by file name.

    Raises:
        UsageError: names every mistake in every file.
    """
    found: list[Declared] = []
    wrong: list[tuple[str, str]] = []
    for file in _files(path):
        try:
            documents = read_documents(file)
        except UsageError as error:
            wrong.append(("", error.message))
            continue
        for number, plain in enumerate(documents, start=1):
            source = f"{file}#{number}" if len(documents) > 1 else str(file)
            problems = list(_problems(plain))
            if not problems:
                try:
                    found.append(_declared(plain, source))
                except UsageError as error:
                    problems.append(("", error.message))
            wrong += [(f"{source}: {field}" if field else source, what) for field, what in problems]
    wrong += _twice(found)
    if wrong:
        raise UsageError("the files are not right; nothing was sent.", _FORM, wrong)
    if not found:
        raise UsageError(f"{path} describes no tenant.", _FORM)
    return found


_FORM = "`tenantry explain --example tenant` shows the form, `tenantry explain PATH` what a field takes."


def read_tenant(path: Path) -> Tenant:
    """Read the tenant in a file of one document, as `tenant get` or `tenant export` writes it.

    Fields that the file leaves out are empty. An exported tenant has no etag.

    Raises:
        UsageError: names every mistake.
    """
    plain = {key: value for key, value in read_document(path).items() if key not in EFFECTIVE_KEYS}
    if "tenant" not in plain:
        return to_message(plain, Tenant(), str(path))
    wrong = list(_problems(plain))
    if wrong:
        raise UsageError(f"{path} is not a tenant.", _FORM, wrong)
    tenant = _declared(plain, str(path)).tenant
    tenant.name = tenant_name(plain["tenant"])
    return tenant


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return sorted(
        file for file in path.iterdir() if file.suffix in SUFFIXES and not file.name.startswith(".")
    )


def _declared(plain: Plain, source: str) -> Declared:
    fields = {field: plain[field] for field in FIELDS if field in plain}
    return Declared(plain["tenant"], to_message(fields, Tenant(), source), source)


def _twice(found: Iterable[Declared]) -> Iterator[tuple[str, str]]:
    first: dict[str, str] = {}
    for declared in found:
        if declared.tenant_id in first:
            yield declared.source, f"describes {declared.tenant_id}, as {first[declared.tenant_id]} does"
        first.setdefault(declared.tenant_id, declared.source)


def _problems(plain: Plain) -> Iterator[tuple[str, str]]:
    """Every mistake in a document: a missing or malformed name, and fields that do not fill a tenant."""
    for key in plain:
        if key not in _KEYS:
            yield str(key), not_a_field(key, _KEYS)
    name = plain.get("tenant")
    if name is None:
        yield "tenant", "is missing"
    elif not (isinstance(name, str) and is_tenant_id(name)):
        yield "tenant", "is not a tenant's name: 1 to 63 of a-z, 0-9 and -; quote one that is all digits"
    if plain.get("config") is None:
        yield "config", "is missing"
    yield from field_problems({field: plain[field] for field in FIELDS if field in plain}, Tenant.DESCRIPTOR)
