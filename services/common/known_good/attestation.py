"""The signature of a last known good file: a signed statement about the file's content."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from services.common.known_good.sealed_file import KnownGood, KnownGoodError
from services.common.known_good.signed_state import NotSignedError, SignedStatement, verified
from services.common.known_good.state_digest import digest_of

Items = Callable[[Sequence[bytes]], Iterable[tuple[str, bytes]]]
"""Extracts the signed items of a file's content."""
_STATEMENT_PARTS = 2


class UnsignedError(KnownGoodError):
    """The config service did not sign this content."""


def signed_parts(signed: SignedStatement, parts: Sequence[bytes]) -> list[bytes]:
    """The parts of a file: statement, signature, then the content."""
    return [signed.text, signed.signature, *parts]


def require_signed(known: KnownGood, signer: bytes, items: Items) -> KnownGood:
    """Check that the signer signed this content, and return the file without its statement.

    Raises:
        UnsignedError: it did not.
        ValueError: the content cannot be parsed.
    """
    if len(known.parts) < _STATEMENT_PARTS:
        raise UnsignedError(known.path, "carries no signature")
    text, signature, *parts = known.parts
    try:
        statement = verified(SignedStatement(text, signature, signer), signer)
    except NotSignedError as error:
        raise UnsignedError(known.path, str(error)) from None
    header = known.header
    said = (statement.cluster_id, statement.revision, statement.current_unix_ms)
    if said != (header.cluster_id, header.revision, header.written_unix_ms):
        raise UnsignedError(known.path, "its header differs from the signed statement")
    if digest_of(items(parts)) != statement.state_sha256:
        raise UnsignedError(known.path, "its content differs from the signed digest")
    return replace(known, parts=parts)
