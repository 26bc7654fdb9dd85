"""What every admin edit shares: who asks, the state it saw, and a write that is visible here before it is answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from grpc.aio import ServicerContext

from services.common.clock import Clock
from services.common.errors import AbortedError, Reason
from services.config.current_state import CurrentState
from services.config.etcd.client import EtcdClient, Expect, StoreUnavailableError
from services.config.operators import Operator, OperatorCheck
from services.config.state import State

Context = ServicerContext[Any, Any]
VISIBLE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Edits:
    """Shared by the modules of the admin service."""

    etcd: EtcdClient
    current: CurrentState
    operators: OperatorCheck
    clock: Clock

    @property
    def state(self) -> State:
        """The state in force here."""
        return self.current.state

    def operator(self, context: Context) -> Operator:
        """Who calls.

        Raises:
            UnauthenticatedError: no good operator's key.
        """
        return self.operators.operator(context.invocation_metadata())

    def now(self) -> Timestamp:
        """The wall clock's time."""
        stamp = Timestamp()
        stamp.FromNanoseconds(int(self.clock.wall_seconds() * 1e9))
        return stamp

    async def write(
        self, expected: Sequence[Expect], puts: dict[str, bytes], deletes: Sequence[str] = ()
    ) -> int:
        """Write as one revision and wait until it is in force here, so that the next read sees it.

        Raises:
            AbortedError: something changed since it was read; nothing was written.
            StoreUnavailableError: etcd does not answer, or does not tell of the write.
        """
        revision = await self.etcd.write(expected, puts, deletes)
        if revision is None:
            raise AbortedError("another write came in between; read again", reason=Reason.CONCURRENT_CHANGE)
        if not await self.current.applied(revision, VISIBLE_SECONDS):
            raise StoreUnavailableError(
                "the change was written but is not confirmed yet; read before retrying"
            )
        return revision
