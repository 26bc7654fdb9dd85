"""Acks on their way to one writer. A writer that does not read its acks cannot send more entries."""

from __future__ import annotations

import asyncio
from collections import deque

from tenantry.audit.v1 import audit_append_service_pb2 as pb

MAX_UNDER_WAY = 8192
"""The most entries of one stream whose acks the writer has not taken."""


class AckQueue:
    """Counts the entries that were taken and the acks that were sent."""

    def __init__(self) -> None:
        self._acks: deque[pb.Ack] = deque()
        self._under_way = 0
        self._closed = False
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    async def room(self) -> None:
        """Wait until more entries may be taken. The wait ends at the latest with the stream."""
        await self._room.wait()

    def expect(self) -> None:
        """Count an entry that was taken."""
        self._under_way += 1
        if self._under_way >= MAX_UNDER_WAY:
            self._room.clear()

    def put(self, ack: pb.Ack) -> None:
        """Queue the ack of an entry that was taken."""
        self._acks.append(ack)
        self._changed.set()

    def close(self) -> None:
        """Say that no more acks will come."""
        self._closed = True
        self._changed.set()

    async def take(self) -> list[pb.Ack]:
        """Wait for acks and return all of them; an empty list ends the stream."""
        while not self._acks and not self._closed:
            self._changed.clear()
            await self._changed.wait()
        taken = list(self._acks)
        self._acks.clear()
        self._under_way -= len(taken)
        if self._under_way < MAX_UNDER_WAY:
            self._room.set()
        return taken
