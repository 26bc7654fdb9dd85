"""The documents that operators write, and the fields of each. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from services.cli.reference.catalog import SERVICE, Field


@dataclass(frozen=True, slots=True)
class DocumentForm:
    """One kind of document."""

    command: str
    """Takes such a file."""
    name_key: str = ""
    """Holds the resource's name; empty where the command line names it."""
    fields: tuple[str, ...] = ()
    """The fields a document may have; empty for all, since the document may be what `get` printed."""

    def takes(self, field: Field) -> bool:
        """Whether a document may have a field of the resource."""
        return not self.fields or field.name in self.fields


DOCUMENTS = {
    "tenant": DocumentForm("tenantry tenant apply -f FILE", "tenant", ("display_name", "config")),
    "pool": DocumentForm("tenantry pool create NAME --file FILE"),
    "model": DocumentForm("tenantry model create NAME --file FILE"),
}


def is_written(form: DocumentForm, field: Field) -> bool:
    """Whether people write a field, rather than leave it as `get` printed it."""
    return form.takes(field) and field.set_by != SERVICE and field.behaviour != "identifier"
