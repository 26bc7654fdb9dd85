"""Acks on their way to one writer, bounded by what may be under way: who does not read its acks sends nothing more."""

from __future__ import annotations

import asyncio
from collections import deque

from tenantry.audit.v1 import audit_append_service_pb2 as pb

MAX_UNDER_WAY = 8192
"""Entries of one stream whose acks the writer has not taken."""


class AckQueue:
    """Counts entries taken against acks sent."""

    def __init__(self) -> None:
        self._acks: deque[pb.Ack] = deque()
        self._under_way = 0
        self._closed = False
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    async def room(self) -> None:
        """Wait until more entries may be taken. It ends with the stream: nothing else takes its acks."""
        await self._room.wait()

    def expect(self) -> None:
        """An entry was taken."""
        self._under_way += 1
        if self._under_way >= MAX_UNDER_WAY:
            self._room.clear()

    def put(self, ack: pb.Ack) -> None:
        """The ack of an entry that was taken."""
        self._acks.append(ack)
        self._changed.set()

    def close(self) -> None:
        """No more acks will come."""
        self._closed = True
        self._changed.set()

    async def take(self) -> list[pb.Ack]:
        """Every ack that is there, at least one; empty at the end."""
        while not self._acks and not self._closed:
            self._changed.clear()
            await self._changed.wait()
        taken = list(self._acks)
        self._acks.clear()
        self._under_way -= len(taken)
        if self._under_way < MAX_UNDER_WAY:
            self._room.set()
        return taken
