"""Collects the pages of a listing into one list (AIP-158)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from services.common.errors import InternalError

Item = TypeVar("Item")


async def collect_pages(page: Callable[[str], Awaitable[tuple[list[Item], str]]]) -> list[Item]:
    """Every item of a listing.

    Args:
        page: gives a page's items and the next page's token, for a page token.

    Raises:
        InternalError: the server gave a page token twice, which would never end.
    """
    items: list[Item] = []
    seen: set[str] = set()
    token = ""
    while True:
        more, token = await page(token)
        items += more
        if not token:
            return items
        if token in seen:
            raise InternalError("the server gave the same page token twice")
        seen.add(token)
