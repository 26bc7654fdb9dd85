"""Shared by all admin RPCs: verify the caller, read the config in force, and write so that the next read sees it."""

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
from services.config.intents.transactions import Intents
from services.config.rules.known_fields import has_unknown_fields
from services.config.state.config_state import ConfigState
from services.config.state.current_state import CurrentState
from services.config.state.operators import Operator, OperatorCheck

Context = ServicerContext[Any, Any]
T = TypeVar("T")
VISIBLE_SECONDS = 2.0
MAX_REQUEST_BYTES = 1 << 20
"""Leaves room to name the violations of a config that is too large; a larger request is refused unread."""
_ATTEMPTS = 8


@dataclass(frozen=True, slots=True)
class Edits:
    """Gives admin RPCs the config in force and the only way to change it."""

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
        """Verify the caller and the request's size, and that the request itself has no unknown field.

        Unknown fields of a request's resource are left to validation.

        Raises:
            UnauthenticatedError: the operator's key is missing or not good.
            InvalidArgumentError: the request is too large, or has a field that this version would ignore.
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
            StoreUnavailableError: etcd does not answer, or the watch does not show the write in time.
        """
        if not self.current.live.is_set():
            # The state comes from a file: etcd may have other values at the same revisions.
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
        """Repeat a write while others come in between: for writes that compete with all others, as for a counter.

        Each attempt has to decide anew on the state at its time. A stale etag is not retried.

        Raises:
            AbortedError: too many writes came in between, or an etag is stale.
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
