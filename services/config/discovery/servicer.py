"""Delivers config to routers: a full state, then deltas, each acknowledged or refused; heartbeats in between."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from grpc.aio import ServicerContext
from tenantry.config.v1 import config_discovery_service_pb2 as pb
from tenantry.config.v1 import config_discovery_service_pb2_grpc

from services.common.clock import SystemClock
from services.common.errors import (
    AbortedError,
    DeadlineExceededError,
    FieldViolation,
    InvalidArgumentError,
    Reason,
)
from services.common.misleading_text import misleading_in
from services.config.discovery.flow_naming import FlowAssignment, FlowNaming
from services.config.discovery.messages import delta, full
from services.config.discovery.registry import RouterRegistry, Session
from services.config.discovery.shared_pieces import SharedPieces
from services.config.discovery.snapshot_statements import SnapshotStatements
from services.config.metrics import ConfigMetrics
from services.config.state.config_state import ConfigState
from services.config.state.current_state import CurrentState

_log = logging.getLogger(__name__)
HEARTBEAT_SECONDS = 0.5
ANSWER_SECONDS = 30.0
HELLO_SECONDS = 10.0
REPLACED_SECONDS = 1.0
"""How long a replaced stream is held silent before it ends. Two routers that share a name by mistake replace each other
this slowly, so that they do not flood the service."""
REFRESH_SECONDS = 10.0
"""How often a router is sent a new statement about a snapshot that is still the newest."""
MAX_ROUTER_NAME = 128
_OUTCOMES = frozenset({"ok", *Reason})


class _Delivery:
    """One router's stream: the state it holds, and the snapshot it has not answered yet."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.held: ConfigState | None = None
        """The last state the router acknowledged; None before the first."""
        self.sent: ConfigState | None = None
        self.nonce = ""
        self.sent_at_seconds = 0.0
        """When the last piece of `sent` was taken."""
        self.refused: ConfigState | None = None
        """The last state the router refused, until it accepts one."""
        self.flow: FlowAssignment | None = None
        """The flow controller that the router was told last."""
        self.stated: object = None
        """The records that the last statement was about."""
        self.stated_at_seconds = float("-inf")

    def settle(self, nonce: str, *, accepted: bool) -> ConfigState | None:
        """Take an answer; returns the state that it answers, None when it answers an older snapshot."""
        if self.sent is None or nonce != self.nonce:
            return None
        answered, self.sent = self.sent, None
        if accepted:
            self.held, self.refused = answered, None
        else:
            # A delta starts from what was accepted, so the next one includes what was refused.
            self.refused = answered
        return answered


class DiscoveryServicer(config_discovery_service_pb2_grpc.ConfigDiscoveryServiceServicer):
    """Serves the mesh's own routers."""

    def __init__(
        self,
        current: CurrentState,
        metrics: ConfigMetrics,
        routers: RouterRegistry,
        statements: SnapshotStatements | None = None,
        naming: FlowNaming | None = None,
    ) -> None:
        self._current = current
        self._metrics = metrics
        self._routers = routers
        self._statements = statements
        self._naming = naming or FlowNaming(SystemClock())
        self._nonces = itertools.count(1)
        self._pieces = SharedPieces()
        self._streams: set[asyncio.Event] = set()

    async def StreamSnapshots(  # noqa: PLR0915 - one stream's life, from hello to goodbye
        self,
        request_iterator: AsyncIterator[pb.StreamSnapshotsRequest],
        context: ServicerContext[Any, Any],  # noqa: ARG002 - gRPC passes it
    ) -> AsyncIterator[pb.StreamSnapshotsResponse]:
        """Follow the config for as long as the router lives."""
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                first = await anext(request_iterator, None)
        except TimeoutError:
            raise DeadlineExceededError("no hello came in time") from None
        if first is None or first.WhichOneof("message") != "hello":
            raise InvalidArgumentError([FieldViolation("hello", "has to be the first message")])
        if not 0 < len(first.hello.router) <= MAX_ROUTER_NAME:
            raise InvalidArgumentError(
                [FieldViolation("hello.router", f"has to have 1 to {MAX_ROUTER_NAME} characters")]
            )
        if character := misleading_in(first.hello.router):
            raise InvalidArgumentError([FieldViolation("hello.router", f"holds {character}")])
        session = self._routers.connect(first.hello.router, first.hello.process_id)
        self._naming.joined(
            session.router, first.hello.flow_target, first.hello.flow_epoch, first.hello.flow_controller
        )
        self._wake_all()
        delivery = _Delivery(session)
        changed = self._current.subscribe()
        changed.set()
        self._streams.add(changed)
        answers = asyncio.create_task(
            self._answers(request_iterator, delivery, changed), name="discovery-answers"
        )
        answers.add_done_callback(lambda _: changed.set())
        self._metrics.routers.inc()
        try:
            while not answers.done():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(HEARTBEAT_SECONDS):
                        await changed.wait()
                changed.clear()
                if answers.done():
                    break
                await self._require_newest(session)
                state = self._current.state
                self._routers.newest(state.revision, state.records, state.history)
                # First, so that a router knows whether a snapshot comes from etcd or from a file.
                yield self._heartbeat()
                beaten_at_seconds = time.monotonic()
                if (flow := self._flow(delivery)) is not None:
                    yield flow
                for message in self._next(delivery):
                    yield message
                    if time.monotonic() - beaten_at_seconds > HEARTBEAT_SECONDS:
                        # Sending a large state on a slow line takes longer than a router waits for a heartbeat.
                        yield self._heartbeat()
                        beaten_at_seconds = time.monotonic()
                    delivery.sent_at_seconds = time.monotonic()  # proven: answer-due-after-last-piece
                statement = self._statement(delivery)
                if statement is not None:
                    yield pb.StreamSnapshotsResponse(statement=statement)
            answers.result()
        finally:
            if self._routers.stands(session):
                self._naming.lost(session.router)
            self._routers.disconnect(session)
            self._streams.discard(changed)
            self._metrics.routers.dec()
            self._current.unsubscribe(changed)
            answers.cancel()
            await asyncio.gather(answers, return_exceptions=True)

    def _flow(self, delivery: _Delivery) -> pb.StreamSnapshotsResponse | None:
        """The flow controller's name, unless the router has it."""
        named = self._naming.assignment()
        if named is None or named == delivery.flow:
            return None
        delivery.flow = named
        # The others hear of it now, not with their next heartbeat.
        self._wake_all()
        return pb.StreamSnapshotsResponse(
            flow=pb.FlowAssignment(
                epoch=named.epoch,
                controller=named.controller,
                target=named.target,
                routers=sorted(named.routers),
            )
        )

    def _wake_all(self) -> None:
        for stream in self._streams:
            stream.set()

    async def _require_newest(self, session: Session) -> None:
        if not self._routers.stands(session):
            _log.warning("%s connected again; its older stream ends", session.router)
            await asyncio.sleep(REPLACED_SECONDS)
            raise AbortedError("another stream was opened under this name", reason=Reason.CONCURRENT_CHANGE)

    def _next(self, delivery: _Delivery) -> Iterator[pb.StreamSnapshotsResponse]:
        """The next snapshot, if the router lacks one and owes no answer.

        One at a time: a slow router gets the newest state next, never a queue of old ones.
        """
        state = self._current.state
        if delivery.sent is not None:
            if time.monotonic() - delivery.sent_at_seconds > ANSWER_SECONDS:
                raise DeadlineExceededError("no answer to a snapshot came in time")
            return
        if not self._current.listed.is_set() or not state.revision:
            return
        # Revisions also advance without changing the records: what was answered is not sent again.
        if any(
            known is not None and known.records is state.records
            for known in (delivery.held, delivery.refused)
        ):
            return
        delivery.nonce = str(next(self._nonces))
        delivery.sent = state
        self._metrics.snapshots.labels(kind="delta" if delivery.held else "full").inc()
        if delivery.held is None:
            yield from full(state, delivery.nonce, self._pieces.of(state))
        else:
            touched = self._current.touched(delivery.held, state)
            yield from delta(delivery.held, state, delivery.nonce, touched)

    def _statement(self, delivery: _Delivery) -> pb.SnapshotStatement | None:
        """A statement about the last snapshot sent, unless the router was sent one lately."""
        state = delivery.sent or delivery.held
        if self._statements is None or state is None:
            return None
        age_seconds = time.monotonic() - delivery.stated_at_seconds
        if delivery.stated is state.records and age_seconds < REFRESH_SECONDS:
            return None
        statement = self._statements.of(state)
        if statement is not None:
            delivery.stated, delivery.stated_at_seconds = state.records, time.monotonic()
        return statement

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
        delivery: _Delivery,
        changed: asyncio.Event,
    ) -> None:
        session = delivery.session
        async for request in requests:
            self._routers.heard(session)
            kind = request.WhichOneof("message")
            if kind == "goodbye":
                self._routers.leave(session)
                self._naming.left(session.router)
                self._wake_all()
                _log.info("%s stopped", session.router)
                return
            if kind == "ack":
                applied = delivery.settle(request.ack.nonce, accepted=True)
                if applied is not None:
                    self._routers.applied(session, applied.revision, applied.records, applied.history)
                    self._naming.serves(session.router)
                self._metrics.answers.labels(answer="ack").inc()
            elif kind == "nack":
                refused = delivery.settle(request.nack.nonce, accepted=False)
                if refused is not None:
                    self._routers.refused(
                        session, refused.revision, refused.records, list(request.nack.reasons)
                    )
                self._metrics.answers.labels(answer="nack").inc()
                reasons = "; ".join(request.nack.reasons[:5])
                _log.error(
                    "%s refuses revision %d: %s", session.router, request.nack.revision, reasons[:1000]
                )
            elif kind == "outcomes":
                for count in request.outcomes.counts:
                    self._metrics.outcomes.labels(outcome=_outcome(count.outcome)).inc(count.requests)
                # A router answers a heartbeat with a report, so a report must not trigger a heartbeat.
                continue
            changed.set()


def _outcome(reported: str) -> str:
    """The label of an outcome, out of a closed set."""
    return reported if reported in _OUTCOMES else "other"
