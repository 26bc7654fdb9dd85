"""Buffers an answer between the model server and its caller: bounded, and coalescing while the caller is slow.

The relay waits for the caller only while a whole buffer is unread, so that a slow reader keeps no place at a model
server. All text that gathers while the caller is busy leaves as one delta.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The next piece of an answer."""

    text: str
    output_tokens: int
    """Generated so far."""


class Outbox:
    """One stream's buffer: one writer, one reader."""

    def __init__(self, max_characters: int) -> None:
        self._max_characters = max_characters
        self._parts: list[str] = []
        self._characters = 0
        self._output_tokens = 0
        self._closed = False
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None

    async def put(self, text: str, output_tokens: int) -> None:
        """Add text; waits only while a whole buffer is unread."""
        while self._characters >= self._max_characters:
            self._writer = asyncio.get_running_loop().create_future()
            await self._writer
        self._parts.append(text)
        self._characters += len(text)
        self._output_tokens = output_tokens
        _wake(self._reader)

    def close(self) -> None:
        """End the stream: nothing follows."""
        self._closed = True
        _wake(self._reader)

    async def get(self) -> TextDelta | None:
        """All unread text, or None at the end; waits for either."""
        while not self._parts:
            if self._closed:
                return None
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        delta = TextDelta("".join(self._parts), self._output_tokens)
        self._parts.clear()
        self._characters = 0
        _wake(self._writer)
        return delta


def _wake(waiting: asyncio.Future[None] | None) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)
