"""Pages of sorted names (AIP-158). A token says where the next page begins; it grants no access. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Sequence
from typing import TypeVar

from services.common.errors import FieldViolation, InvalidArgumentError

DEFAULT_PAGE = 50
MAX_PAGE = 1000
_KIND_DIGITS = 16
T = TypeVar("T")


def page(
    items: Sequence[T], name_of: Callable[[T], str], page_size: int, page_token: str, kind: str
) -> tuple[Sequence[T], str]:
    """One page of items sorted by name, and the token of the next one; empty for none.

    Raises:
        InvalidArgumentError: the size is negative, or the token belongs to another list.
    """
    if page_size < 0:
        raise InvalidArgumentError([FieldViolation("page_size", f"is {page_size}, less than 0")])
    size = min(page_size or DEFAULT_PAGE, MAX_PAGE)
    after = _decode(page_token, kind) if page_token else ""
    left = [item for item in items if name_of(item) > after]
    chosen = left[:size]
    more = len(left) > size
    return chosen, _encode(name_of(chosen[-1]), kind) if more else ""


def _short(kind: str) -> str:
    """A digest of a list's kind, which may hold a caller's text of any length, with line breaks."""
    return hashlib.sha256(kind.encode()).hexdigest()[:_KIND_DIGITS]


def _encode(name: str, kind: str) -> str:
    return base64.urlsafe_b64encode(f"{_short(kind)}\n{name}".encode()).decode()


def _decode(token: str, kind: str) -> str:
    try:
        found, _, name = base64.b64decode(token, altchars=b"-_", validate=True).decode().partition("\n")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        found, name = "", ""
    if found != _short(kind):
        raise InvalidArgumentError([FieldViolation("page_token", "is not a token of this list")])
    return name
