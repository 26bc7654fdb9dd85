"""What every admin edit shares: who asks, the state it saw, and a write that is visible here before it is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.unknown_fields import UnknownFieldSet
from grpc.aio import ServicerContext

from services.common.backoff import Backoff
from services.common.clock import Clock
from services.common.errors import AbortedError, FieldViolation, InvalidArgumentError, Reason
from services.config.current_state import CurrentState
from services.config.operators import Operator, OperatorCheck
from services.config.state import State
from services.config.store import ConfigStore, Expect, StoreUnavailableError, Unchanged

Context = ServicerContext[Any, Any]
VISIBLE_SECONDS = 2.0
_ATTEMPTS = 8


@dataclass(frozen=True, slots=True)
class Edits:
    """Shared by the modules of the admin service."""

    store: ConfigStore
    current: CurrentState
    operators: OperatorCheck
    clock: Clock

    @property
    def state(self) -> State:
        """The state in force here."""
        return self.current.state

    def operator(self, context: Context, request: Message | None = None) -> Operator:
        """Who calls, asking for nothing this version does not know: an option unread would be an option ignored.

        Raises:
            UnauthenticatedError: no good operator's key.
            InvalidArgumentError: the request itself has unknown fields; those of its resource are validation's.
        """
        operator = self.operators.operator(context.invocation_metadata())
        if request is not None and len(UnknownFieldSet(request)):
            raise InvalidArgumentError([FieldViolation("request", "has a field not known to this version")])
        return operator

    def now(self) -> Timestamp:
        """The wall clock's time."""
        stamp = Timestamp()
        stamp.FromNanoseconds(int(self.clock.wall_seconds() * 1e9))
        return stamp

    async def write(
        self, conditions: Sequence[Expect | Unchanged], puts: Mapping[str, bytes], deletes: Sequence[str] = ()
    ) -> int:
        """Write as one revision and wait until it is in force here, so that the next read sees it.

        Raises:
            AbortedError: something changed since it was read; nothing was written.
            StoreUnavailableError: etcd does not answer, or does not tell of the write.
        """
        revision = await self.store.write(conditions, puts, deletes)
        if revision is None:
            raise AbortedError("another write came in between; read again", reason=Reason.CONCURRENT_CHANGE)
        if not await self.current.applied(revision, VISIBLE_SECONDS):
            raise StoreUnavailableError(
                "the change was written but is not confirmed yet; read before retrying"
            )
        return revision

    async def retrying(self, attempt: Callable[[], Awaitable[object]]) -> None:
        """Attempt a write again while others come in between: for what races with everybody, such as a counter.

        Raises:
            AbortedError: too many came in between.
        """
        backoff = Backoff(0.01, 0.2)
        for _ in range(_ATTEMPTS - 1):
            try:
                await attempt()
            except AbortedError:
                await asyncio.sleep(backoff.next_delay_seconds())
            else:
                return
        await attempt()
