"""What every admin edit shares: who asks, the state it saw, and a write that is visible here before it is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from grpc.aio import ServicerContext

from services.common.backoff import Backoff
from services.common.clock import Clock
from services.common.errors import AbortedError, FieldViolation, InvalidArgumentError, Reason
from services.config.admin.checks import ConfigChecks
from services.config.etcd.store import ConfigStore, Expect, StoreUnavailableError, Unchanged
from services.config.intents.change import Change
from services.config.intents.intents import Intents
from services.config.rules.known_fields import has_unknown_fields
from services.config.state.config_state import ConfigState
from services.config.state.current_state import CurrentState
from services.config.state.operators import Operator, OperatorCheck

Context = ServicerContext[Any, Any]
T = TypeVar("T")
VISIBLE_SECONDS = 2.0
MAX_REQUEST_BYTES = 1 << 20
"""Leaves room to name what is wrong with a config that is too large; a larger one is not looked at."""
_ATTEMPTS = 8


@dataclass(frozen=True, slots=True)
class Edits:
    """Shared by the modules of the admin service."""

    intents: Intents
    store: ConfigStore
    """For reads only."""
    current: CurrentState
    operators: OperatorCheck
    clock: Clock
    checks: ConfigChecks

    @property
    def state(self) -> ConfigState:
        """The state in force here."""
        return self.current.state

    def operator(self, context: Context, request: Message | None = None) -> Operator:
        """Who calls, asking for nothing this version does not know: an option unread would be an option ignored.

        Raises:
            UnauthenticatedError: no good operator's key.
            InvalidArgumentError: the request is too large, or itself has unknown fields; those of its resource are
                validation's.
        """
        operator = self.operators.operator(context.invocation_metadata())
        size = request.ByteSize() if request is not None else 0
        if size > MAX_REQUEST_BYTES:
            what = f"has {size} bytes, more than {MAX_REQUEST_BYTES}"
            raise InvalidArgumentError([FieldViolation("request", what)])
        if request is not None and has_unknown_fields(request):
            raise InvalidArgumentError([FieldViolation("request", "has a field not known to this version")])
        return operator

    def now(self) -> Timestamp:
        """The wall clock's time."""
        stamp = Timestamp()
        stamp.FromNanoseconds(int(self.clock.wall_seconds() * 1e9))
        return stamp

    async def write(
        self,
        change: Change,
        conditions: Sequence[Expect | Unchanged],
        puts: Mapping[str, bytes],
        deletes: Sequence[str] = (),
    ) -> int:
        """Write as one revision and wait until it is in force here, so that the next read sees it.

        The change's intent is durable in the operator audit log before anything is written.

        Raises:
            UnavailableError: the operator audit log is not reachable; nothing was written.
            AbortedError: something changed since it was read; nothing was written.
            StoreUnavailableError: etcd does not answer, or does not tell of the write.
        """
        if not self.current.live.is_set():
            # What the change was decided on is out of a file: etcd may be at the same revisions with other values.
            raise StoreUnavailableError(
                "the config store does not answer; the config shown may be out of date"
            )
        revision = await self.intents.write(change, conditions, puts, deletes)
        if revision is None:
            raise AbortedError("another write came in between; read again", reason=Reason.CONCURRENT_CHANGE)
        if not await self.current.applied(revision, VISIBLE_SECONDS):
            raise StoreUnavailableError(
                "the change was written but is not confirmed yet; read before retrying"
            )
        return revision

    async def retrying(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Attempt a write again while others come in between: for what races with everybody, such as a counter.

        Each attempt has to decide anew, on the state of its own moment. A stale etag is not tried again.

        Raises:
            AbortedError: too many came in between, or an etag is stale.
        """
        backoff = Backoff(0.01, 0.2)
        for _ in range(_ATTEMPTS - 1):
            try:
                return await attempt()
            except AbortedError as error:
                if error.reason is not Reason.CONCURRENT_CHANGE:
                    raise
                await asyncio.sleep(backoff.next_delay_seconds())
        return await attempt()
