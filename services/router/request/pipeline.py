"""One request, from identity to last token: a coroutine that reads from top to bottom.

It may be cancelled at any await. What it holds (a concurrent request, reserved tokens, a place at an endpoint, the
stream behind it) is held by a context manager, and an audit outcome follows every admit.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Generic, TypeVar

from tenantry.inference.v1 import inference_service_pb2 as pb

from services.common.audit.entry import AuditReceipt
from services.common.clock import Clock
from services.common.errors import (
    DeadlineExceededError,
    Error,
    FieldViolation,
    InternalError,
    InvalidArgumentError,
    Reason,
)
from services.common.request_ids import new_request_id
from services.common.text.templates import TemplateError
from services.common.tokens import TokenVerifier
from services.router.audit.recorder import AuditRecorder, RequestRecord
from services.router.audit.refusals import RefusalLog
from services.router.backends.dispatch import Dispatcher
from services.router.flow.grant import Grant
from services.router.flow.requests import Request as EnteredRequest
from services.router.flow.requests import Requests
from services.router.guardrails.guardrails import Guardrails, denied
from services.router.limits.limited import limited_of
from services.router.limits.request_size import check_input_bytes, cost_of
from services.router.metrics import RequestMetrics
from services.router.pool.pool_kind import PoolKind
from services.router.request.admission import Admission, Reservation
from services.router.request.drain import Drain
from services.router.request.failure_log import FailureLog
from services.router.request.identity import identify, refusal_of
from services.router.request.model_listing import list_models
from services.router.request.outbox import Outbox
from services.router.request.relay import relay
from services.router.request.request_fields import check_fields, text_bytes
from services.router.request.shaping import caller_turns, shape
from services.router.snapshot.config_state import ConfigState
from services.router.snapshot.model import Snapshot
from services.router.snapshot.outcomes import OutcomeCounts
from services.router.stages import Admitted, Answered, FinishReason, Generation, Identified, Shaped, Stage
from services.router.text.prompt_encoding import PromptEncoder

R_co = TypeVar("R_co", covariant=True)

_log = logging.getLogger(__name__)
OK = "ok"
# Closer to the deadline than this, a call that is cancelled was cancelled by its deadline.
_DEADLINE_SLACK_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Call(Generic[R_co]):
    """One RPC, before its request was read."""

    receive: Callable[[str], Awaitable[R_co]]
    """Receives and parses the request of a tenant, by its uid."""
    authorization: str | None
    timeout_seconds: float | None
    """Until the caller's deadline; None when it brought none."""
    request_id: str = field(default_factory=new_request_id)


@dataclass(slots=True)
class _Progress:
    """How far a request has come, for what is recorded of its end."""

    stage: Stage
    record: RequestRecord | None = None


class Pipeline:
    """Leads each request through its steps."""

    def __init__(
        self,
        *,
        config: ConfigState,
        verifier: TokenVerifier,
        admission: Admission,
        encoder: PromptEncoder,
        requests: Requests,
        dispatcher: Dispatcher,
        audit: AuditRecorder,
        refusals: RefusalLog,
        outcomes: OutcomeCounts,
        metrics: RequestMetrics,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._config = config
        self._verifier = verifier
        self._admission = admission
        self._encoder = encoder
        self._requests = requests
        self._dispatcher = dispatcher
        self._audit = audit
        self._refusals = refusals
        self._outcomes = outcomes
        self._metrics = metrics
        self._clock = clock
        self._rng = rng
        self._drain = Drain()
        self.failures = FailureLog(clock)
        """Writes the lines of failed requests; run it beside the pipeline."""
        self._guardrails = Guardrails(clock)

    async def run(self, call: Call[pb.GenerateRequest], outbox: Outbox | None) -> Answered:
        """Answer; text goes to the outbox as it comes, where there is one.

        Raises:
            Error: why there is no answer.
        """
        with self._drain.running() as running:
            identified = self._identify(call)
            running.tenant_uid, running.key_id = identified.tenant.tenant_uid, identified.key_id
            progress = _Progress(identified)
            with self._recorded(identified, progress):
                async with asyncio.timeout(max(identified.deadline - self._clock.monotonic_seconds(), 0.0)):
                    return await self._serve(call, identified, progress, outbox)

    async def list_models(self, call: Call[pb.ListModelsRequest]) -> pb.ListModelsResponse:
        """List what the caller's tenant may ask: a request as far as identity, staleness and limits go.

        Raises:
            Error: why it is refused.
        """
        with self._drain.running():
            identified = self._identify(call)
            outcome = str(Reason.INTERNAL)
            try:
                listed = await self._list(call, identified)
                outcome = OK
            except Exception as error:  # every failure is recorded, then raised again
                failure = _as_error(error)
                outcome = failure.reason
                self._refused(identified, failure)
                self._failed(identified, failure)
                raise
            finally:
                self._metrics.listed(identified.tenant.tenant_uid, outcome)
            return listed

    def config_changed(self, snapshot: Snapshot) -> None:
        """End what tenants and keys may not go on with: what waits is not sent, what runs is cancelled."""
        ended = self._drain.end(partial(refusal_of, snapshot))  # proven: suspension-ends-requests
        if ended:
            _log.warning("%d requests end: their tenant is suspended or gone, or their key revoked", ended)

    async def stop(self, within_seconds: float) -> None:
        """Let requests end by themselves; end those that are left then with SHUTTING_DOWN."""
        await self._drain.finish(within_seconds)
        self.failures.flush()
        self._guardrails.close()

    def _identify(self, call: Call[Any]) -> Identified:
        """Identify the caller under the snapshot in force."""
        arrived_at, arrived_wall_seconds = self._clock.monotonic_seconds(), self._clock.wall_seconds()
        try:
            snapshot = self._config.snapshot()
            caller = identify(self._verifier, snapshot, call.authorization, arrived_wall_seconds)
        except Exception as error:  # every failure is recorded, then raised again
            failure = _as_error(error)
            self._metrics.unidentified(failure.reason)
            self.failures.failed(call.request_id, failure)
            raise
        tenant = caller.tenant
        wanted = tenant.default_timeout_seconds if call.timeout_seconds is None else call.timeout_seconds
        return Identified(
            request_id=call.request_id,
            tenant=tenant,
            key_id=caller.key_id,
            stale=self._config.stale,
            arrived_at=arrived_at,
            arrived_wall_seconds=arrived_wall_seconds,
            deadline=arrived_at + min(wanted, tenant.max_timeout_seconds),
        )

    async def _list(self, call: Call[pb.ListModelsRequest], identified: Identified) -> pb.ListModelsResponse:
        tenant = identified.tenant
        self._config.check_fresh(tenant)  # proven: fresh-listings
        limited = limited_of(tenant, identified.key_id)
        async with self._requests.confirmed(limited, identified.deadline):
            return list_models(tenant, await call.receive(tenant.tenant_uid))

    async def _serve(
        self,
        call: Call[pb.GenerateRequest],
        identified: Identified,
        progress: _Progress,
        outbox: Outbox | None,
    ) -> Answered:
        tenant = identified.tenant
        self._config.check_fresh(tenant)
        with self._requests.entered(limited_of(tenant, identified.key_id)) as entered:
            shaped = await self._shape(await call.receive(tenant.tenant_uid), identified)
            progress.stage = shaped
            async with self._admission.reserved(shaped) as reservation:
                record = progress.record = self._audit.start(shaped)
                try:
                    answered = await self._answer(shaped, progress, record, entered, reservation, outbox)
                except BaseException as error:
                    status = self._status(error, identified.deadline)
                    record.fail(progress.stage, status, self._clock.monotonic_seconds())
                    raise
            # What it did not use is free again while its outcome becomes durable.
            receipt = await record.succeed(answered, self._clock.monotonic_seconds())
            return replace(answered, outcome_receipt=receipt)

    async def _shape(self, request: pb.GenerateRequest, identified: Identified) -> Shaped:
        """Judge what the caller says, resolve what it asks, encode it and know its cost."""
        tenant = identified.tenant
        check_fields(request)
        shadowed = partial(self._metrics.limit_shadowed, tenant.tenant_uid)
        check_input_bytes(request.WhichOneof("input") or "", text_bytes(request), tenant, shadowed)
        said = caller_turns(request)
        guarded = await self._guardrails.check_input(tenant, [turn.content for turn in said])
        if guarded.denied_by is not None:
            raise denied(guarded.denied_by)
        asked = shape(tenant, request, self._rng, said, guarded.texts)
        try:
            input_ids = await self._encoder.encode(tenant.tenant_uid, asked.base_model.text, asked.prompt)
        except TemplateError as error:
            raise InvalidArgumentError([FieldViolation(asked.prompt.field, str(error))]) from None
        return Shaped(
            identified=identified,
            shape=asked,
            input_ids=input_ids,
            cost=cost_of(tenant, asked, len(input_ids), shadowed),
            input_rule_ids=guarded.rule_ids,
            correlation_id=request.correlation_id,
            client_metadata=dict(request.client_metadata),
        )

    async def _answer(
        self,
        shaped: Shaped,
        progress: _Progress,
        record: RequestRecord,
        entered: EnteredRequest,
        reservation: Reservation,
        outbox: Outbox | None,
    ) -> Answered:
        """Wait for a place, send, relay; where the tenant has guardrails on answers, judge the whole one first."""
        held_back = bool(shaped.tenant.guardrails.output.rules)
        streamed_to = None if held_back else outbox  # proven: held-back-answers
        receipt: AuditReceipt | None = None

        async def admitted_durably() -> None:
            nonlocal receipt
            receipt = await record.admitted()

        # No place at an endpoint is held while it is unknown whether the policy lets the request continue.
        pool = PoolKind.of(shaped.shape.pool)
        async with await entered.acquire(pool, shaped.demand, admitted_durably) as grant:
            self._metrics.queued(shaped.tenant.tenant_uid, grant.queued_seconds)
            generation = Generation(charged_input_tokens=shaped.cost.input_tokens)
            admitted = Admitted(shaped, receipt, self._clock.monotonic_seconds(), generation)
            progress.stage = admitted
            finish_reason = await self._relay(admitted, grant, reservation, streamed_to)
            last_token_at = self._clock.monotonic_seconds()
            answered = Answered(admitted, finish_reason, last_token_at, generation.text)
            progress.stage = answered
        return await self._guard_answer(answered, progress, outbox) if held_back else answered

    async def _relay(
        self, admitted: Admitted, grant: Grant, reservation: Reservation, outbox: Outbox | None
    ) -> FinishReason:
        generation = admitted.generation
        chunks = self._dispatcher.send(admitted.shaped, grant)
        try:
            return await relay(admitted, chunks, grant, reservation, outbox, self._clock)
        except Error:
            # A caller that leaves is charged for its prompt; one whose server failed is not.
            if generation.first_token_at is None:
                generation.charged_input_tokens = 0
                grant.refund_prompt()
            raise
        finally:
            reservation.use(generation.charged_input_tokens, generation.output_tokens)

    async def _guard_answer(self, answered: Answered, progress: _Progress, outbox: Outbox | None) -> Answered:
        """Judge the whole answer, and give it as one piece."""
        guarded = await self._guardrails.check_output(answered.tenant, answered.text)
        text = answered.text if guarded.texts is None else guarded.texts[0]
        judged = replace(answered, text=text, output_rule_ids=guarded.rule_ids)
        progress.stage = judged
        if guarded.denied_by is not None:
            raise denied(guarded.denied_by)
        if outbox is not None and text:
            await outbox.put(text, answered.generation.output_tokens)
        return judged

    @contextmanager
    def _recorded(self, identified: Identified, progress: _Progress) -> Iterator[None]:
        """Record how the request ends, by the stage it reached."""
        outcome: str = Reason.INTERNAL
        failure: Error | None = None
        try:
            yield
            outcome = OK
        except TimeoutError:
            failure = _deadline_passed()
            raise failure from None
        except asyncio.CancelledError:
            outcome = self._cancelled_as(identified.deadline)
            # For the records only: the caller's own deadline has answered it, and the drain answers what it cancels.
            failure = self._drain.cause or (_deadline_passed() if outcome == Reason.DEADLINE_PASSED else None)
            raise
        except Exception as error:
            failure = _as_error(error)  # proven: unexpected-failures-are-counted
            raise
        finally:
            if failure is not None:
                outcome = failure.reason
                self._failed(identified, failure)
                if progress.record is None or not progress.record.begun:
                    self._refused(identified, failure)
            tenant = identified.tenant
            self._metrics.ended(progress.stage, outcome)
            self._outcomes.count(tenant.tenant_uid, tenant.config_version, outcome)
            # Its traceback leads here: a circle would keep a large request until garbage is collected.
            failure = None

    def _refused(self, identified: Identified, error: Error) -> None:
        self._refusals.count(identified.tenant.tenant_uid, identified.key_id, identified.request_id, error)

    def _failed(self, identified: Identified, error: Error) -> None:
        if (limit := error.metadata.get("limit")) is not None:
            self._metrics.limit_refused(identified.tenant.tenant_uid, limit)
        self.failures.failed(
            identified.request_id,
            error,
            tenant_uid=identified.tenant.tenant_uid,
            key_id=identified.key_id,
        )

    def _status(self, error: BaseException, deadline: float) -> str:
        if isinstance(error, Error):
            return error.reason
        if isinstance(error, asyncio.CancelledError):
            return self._cancelled_as(deadline)
        return Reason.INTERNAL

    def _cancelled_as(self, deadline: float) -> str:
        """The reason for a cancellation: what the router itself ended it for, a deadline, or the caller.

        At the caller's own deadline it is gRPC that cancels.
        """
        if (cause := self._drain.cause) is not None:
            return cause.reason
        if self._clock.monotonic_seconds() >= deadline - _DEADLINE_SLACK_SECONDS:
            return Reason.DEADLINE_PASSED
        return Reason.CANCELLED_BY_CALLER


def _as_error(error: Exception) -> Error:
    """The error that the caller gets: an unexpected one is a fault of tenantry, and is recorded as such."""
    return error if isinstance(error, Error) else InternalError()


def _deadline_passed() -> DeadlineExceededError:
    return DeadlineExceededError("the deadline passed first")
