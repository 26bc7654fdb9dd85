"""Etags: quoted (RFC 7232), one for each revision of the resource (AIP-154)."""

from __future__ import annotations

from services.common.errors import AbortedError, FieldViolation, InvalidArgumentError


def etag_of(mod_revision: int) -> str:
    """The etag of a resource last changed by a revision."""
    return f'"{mod_revision}"'


def require_etag(etag: str, mod_revision: int, field: str) -> None:
    """Check that a resource has not changed since it was read.

    Raises:
        InvalidArgumentError: the etag is missing.
        AbortedError: the resource changed.
    """
    if not etag:
        raise InvalidArgumentError(
            [
                FieldViolation(
                    field, "is missing; send the etag of the state you read, so that no edit is lost"
                )
            ]
        )
    if etag != etag_of(mod_revision):
        raise AbortedError("the resource has changed since it was read; read it again")
