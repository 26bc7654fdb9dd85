"""Delivers config to routers: a full state, then deltas, each acknowledged or refused; heartbeats in between."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

from grpc.aio import ServicerContext
from tenantry.config.v1 import config_discovery_service_pb2 as pb
from tenantry.config.v1 import config_discovery_service_pb2_grpc

from services.common.errors import DeadlineExceededError, FieldViolation, InvalidArgumentError, Reason
from services.config.current_state import CurrentState
from services.config.metrics import ConfigMetrics
from services.config.snapshot_messages import delta, full
from services.config.state import State

_log = logging.getLogger(__name__)
HEARTBEAT_SECONDS = 0.5
ANSWER_SECONDS = 30.0
MAX_ROUTER_NAME = 128
_OUTCOMES = frozenset({"ok", *Reason})


class _Session:
    """One router's stream: what it holds, and what it has yet to answer."""

    def __init__(self, router: str) -> None:
        self.router = router
        self.held: State | None = None
        """The last state the router acknowledged; None before the first."""
        self.sent: State | None = None
        self.nonce = ""
        self.sent_at_seconds = 0.0
        self.refused: State | None = None
        """The last state the router refused, until it accepts one."""

    def settle(self, nonce: str, *, accepted: bool) -> None:
        """The router answered; an answer to an older snapshot means nothing any more."""
        if self.sent is None or nonce != self.nonce:
            return
        if accepted:
            self.held, self.refused = self.sent, None
        else:
            # What a refused snapshot changed is part of the next one: deltas start from what was accepted.
            self.refused = self.sent
        self.sent = None


class DiscoveryServicer(config_discovery_service_pb2_grpc.ConfigDiscoveryServiceServicer):
    """Serves the mesh's own routers."""

    def __init__(self, current: CurrentState, metrics: ConfigMetrics) -> None:
        self._current = current
        self._metrics = metrics
        self._nonces = itertools.count(1)

    async def StreamSnapshots(
        self,
        request_iterator: AsyncIterator[pb.StreamSnapshotsRequest],
        context: ServicerContext[Any, Any],  # noqa: ARG002 - gRPC passes it
    ) -> AsyncIterator[pb.StreamSnapshotsResponse]:
        """Follow the config for as long as the router lives."""
        first = await anext(request_iterator, None)
        if first is None or first.WhichOneof("message") != "hello":
            raise InvalidArgumentError([FieldViolation("hello", "has to be the first message")])
        if not 0 < len(first.hello.router) <= MAX_ROUTER_NAME:
            raise InvalidArgumentError(
                [FieldViolation("hello.router", f"has to have 1 to {MAX_ROUTER_NAME} characters")]
            )
        session = _Session(first.hello.router)
        changed = self._current.subscribe()
        changed.set()
        answers = asyncio.create_task(
            self._answers(request_iterator, session, changed), name="discovery-answers"
        )
        self._metrics.routers.inc()
        try:
            while not answers.done():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(HEARTBEAT_SECONDS):
                        await changed.wait()
                changed.clear()
                for message in self._next(session):
                    yield message
                yield self._heartbeat()
            answers.result()
        finally:
            self._metrics.routers.dec()
            self._current.unsubscribe(changed)
            answers.cancel()
            await asyncio.gather(answers, return_exceptions=True)

    def _next(self, session: _Session) -> Iterator[pb.StreamSnapshotsResponse]:
        """The next snapshot, if the router lacks one and owes no answer.

        One at a time: a slow router gets the newest state next, never a queue of old ones.
        """
        state = self._current.state
        now = asyncio.get_running_loop().time()
        if session.sent is not None:
            if now - session.sent_at_seconds > ANSWER_SECONDS:
                raise DeadlineExceededError("no answer to a snapshot came in time")
            return
        if not self._current.listed.is_set():
            return
        # Revisions move without the records, too: what was answered already is not sent again for that.
        if any(
            known is not None and known.records is state.records for known in (session.held, session.refused)
        ):
            return
        session.nonce = str(next(self._nonces))
        session.sent, session.sent_at_seconds = state, now
        self._metrics.snapshots.labels(kind="delta" if session.held else "full").inc()
        if session.held is None:
            yield from full(state, session.nonce)
        else:
            yield from delta(session.held, state, session.nonce)

    def _heartbeat(self) -> pb.StreamSnapshotsResponse:
        return pb.StreamSnapshotsResponse(
            heartbeat=pb.Heartbeat(
                revision=self._current.state.revision,
                etcd_connected=self._current.connected,
                etcd_silence_ms=self._current.silence_ms,
            )
        )

    async def _answers(
        self,
        requests: AsyncIterator[pb.StreamSnapshotsRequest],
        session: _Session,
        changed: asyncio.Event,
    ) -> None:
        async for request in requests:
            kind = request.WhichOneof("message")
            if kind == "ack":
                session.settle(request.ack.nonce, accepted=True)
                self._metrics.answers.labels(answer="ack").inc()
            elif kind == "nack":
                session.settle(request.nack.nonce, accepted=False)
                self._metrics.answers.labels(answer="nack").inc()
                reasons = "; ".join(request.nack.reasons[:5])
                _log.error(
                    "%s refuses revision %d: %s", session.router, request.nack.revision, reasons[:1000]
                )
            elif kind == "outcomes":
                for count in request.outcomes.counts:
                    self._metrics.outcomes.labels(outcome=_outcome(count.outcome)).inc(count.requests)
            changed.set()


def _outcome(reported: str) -> str:
    """A label of a closed set, whatever a router reports."""
    return reported if reported in _OUTCOMES else "other"
