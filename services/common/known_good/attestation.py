"""The signature of a last known good file: the statement that its content is somebody's, and what it has to say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from services.common.known_good.sealed_file import KnownGood, KnownGoodError
from services.common.known_good.signed_state import NotSignedError, SignedStatement, verified
from services.common.known_good.state_digest import digest_of

Items = Callable[[Sequence[bytes]], Iterable[tuple[str, bytes]]]
"""What of a file's content is signed."""
_STATEMENT_PARTS = 2


class UnsignedError(KnownGoodError):
    """The file's content is not what the config service signed."""


def signed_parts(signed: SignedStatement, parts: Sequence[bytes]) -> list[bytes]:
    """The parts of a file: statement and signature before the content."""
    return [signed.text, signed.signature, *parts]


def require_signed(known: KnownGood, signer: bytes, items: Items) -> KnownGood:
    """The file without its statement, which has to be the signer's and about this content.

    Raises:
        UnsignedError: it is not.
        ValueError: the content does not come apart.
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
        raise UnsignedError(known.path, "its header says something else than what is signed")
    if digest_of(items(parts)) != statement.state_sha256:
        raise UnsignedError(known.path, "its content is not the one that is signed")
    return replace(known, parts=parts)
