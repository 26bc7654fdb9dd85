"""One request, from identity to last token: a coroutine that reads from top to bottom.

It may be cancelled at any await. Whatever it holds (a concurrent request, reserved tokens, a place at an
endpoint, the stream behind it) is held by a context manager, and an audit outcome follows every admit.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

from tenantry.inference.v1 import inference_service_pb2 as pb

from services.common.clock import Clock
from services.common.errors import (
    DeadlineExceededError,
    Error,
    FieldViolation,
    InvalidArgumentError,
    Reason,
)
from services.common.text.templates import TemplateError
from services.common.tokens import TokenVerifier
from services.router.audit.audit_trail import AuditRecorder, AuditTrail
from services.router.audit.refusals import RefusalLog
from services.router.guardrails.guardrails import Guardrails, denied
from services.router.metrics import RouterMetrics
from services.router.pool.directory import PoolDirectory
from services.router.request.admission import Admission, Reservation, cost_of
from services.router.request.dispatch import Dispatcher
from services.router.request.drain import Drain
from services.router.request.exchange import Exchange
from services.router.request.identity import Caller, identify
from services.router.request.limits import check_input_bytes
from services.router.request.model_listing import list_models
from services.router.request.outbox import Outbox
from services.router.request.relay import relay
from services.router.request.request_fields import check_fields, text_bytes
from services.router.request.shaping import Shape, caller_turns, shape
from services.router.snapshot.config_state import ConfigState
from services.router.snapshot.outcomes import OutcomeCounts
from services.router.text.prompt_encoding import PromptEncoder

OK = "ok"
# Closer to the deadline than this, a call that is cancelled was cancelled by its deadline.
_DEADLINE_SLACK_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Call:
    """One RPC, as the servicer received it."""

    request: pb.GenerateRequest
    authorization: str | None
    timeout_seconds: float | None
    """Until the caller's deadline; None when it brought none."""


class Pipeline:
    """Everything a request meets on its way."""

    def __init__(
        self,
        *,
        config: ConfigState,
        verifier: TokenVerifier,
        admission: Admission,
        encoder: PromptEncoder,
        pools: PoolDirectory,
        dispatcher: Dispatcher,
        audit: AuditRecorder,
        refusals: RefusalLog,
        outcomes: OutcomeCounts,
        metrics: RouterMetrics,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._config = config
        self._verifier = verifier
        self._admission = admission
        self._encoder = encoder
        self._pools = pools
        self._dispatcher = dispatcher
        self._audit = audit
        self._refusals = refusals
        self._outcomes = outcomes
        self._metrics = metrics
        self._clock = clock
        self._rng = rng
        self._drain = Drain()
        self._guardrails = Guardrails(clock)

    async def run(self, call: Call, outbox: Outbox | None) -> Exchange:
        """Answer; text goes to the outbox as it comes, where there is one.

        Raises:
            Error: whatever ended it early.
        """
        with self._drain.running():
            return await self._run(call, outbox)

    async def list_models(
        self, authorization: str | None, request: pb.ListModelsRequest
    ) -> pb.ListModelsResponse:
        """List what the caller's tenant may ask: a request as far as identity, staleness and limits go.

        Raises:
            Error: whatever refused it.
        """
        with self._drain.running():
            caller = self._caller(authorization)
            tenant, outcome = caller.tenant, str(Reason.INTERNAL)
            try:
                self._config.check_fresh(tenant)
                with self._admission.entered(tenant):
                    listed = list_models(tenant, request)
                outcome = OK
            except Error as error:
                outcome = error.reason
                self._refusals.count(tenant.tenant_uid, caller.key_id, error.reason)
                raise
            finally:
                self._metrics.listed(tenant.tenant_uid, outcome)
            return listed

    async def stop(self, within_seconds: float) -> None:
        """Let requests end by themselves; those that are left then are told that the router shuts down."""
        await self._drain.finish(within_seconds)
        self._guardrails.close()

    def _caller(self, authorization: str | None) -> Caller:
        """Know who calls, under the snapshot in force."""
        try:
            snapshot, now = self._config.snapshot(), self._clock.wall_seconds()
            return identify(self._verifier, snapshot, authorization, now)
        except Error as error:
            self._metrics.unidentified(error.reason)
            raise

    async def _run(self, call: Call, outbox: Outbox | None) -> Exchange:
        arrived_at = self._clock.monotonic_seconds()
        caller = self._caller(call.authorization)
        exchange = Exchange(
            caller=caller,
            request=call.request,
            stale=self._config.stale,
            arrived_at=arrived_at,
            arrived_wall_seconds=self._clock.wall_seconds(),
        )
        tenant = caller.tenant
        wanted = tenant.default_timeout_seconds if call.timeout_seconds is None else call.timeout_seconds
        deadline = arrived_at + min(wanted, tenant.max_timeout_seconds)
        outcome: str = Reason.INTERNAL
        try:
            async with asyncio.timeout(max(deadline - self._clock.monotonic_seconds(), 0.0)):
                await self._serve(exchange, outbox, deadline)
            outcome = OK
        except TimeoutError:
            outcome = Reason.DEADLINE_PASSED
            raise DeadlineExceededError("the deadline passed first") from None
        except asyncio.CancelledError:
            outcome = self._cancelled_as(deadline)
            raise
        except Error as error:
            outcome = error.reason
            raise
        finally:
            self._metrics.ended(exchange, outcome)
            self._outcomes.count(tenant.tenant_uid, tenant.config_version, outcome)
        return exchange

    async def _serve(self, exchange: Exchange, outbox: Outbox | None, deadline: float) -> None:
        tenant, request = exchange.caller.tenant, exchange.request
        try:
            self._config.check_fresh(tenant)
            with self._admission.entered(tenant):
                check_fields(request)
                check_input_bytes(request.WhichOneof("input") or "", text_bytes(request), tenant.limits)
                exchange.shape = await self._shape(exchange)
                input_ids = await self._encode(exchange)
                exchange.cost = cost_of(tenant, exchange.shape, len(input_ids))
                async with self._admission.reserved(tenant, exchange.cost) as reservation:
                    await self._answer(exchange, input_ids, reservation, outbox, deadline)
        except Error as error:
            if not exchange.admit_begun:
                self._refusals.count(tenant.tenant_uid, exchange.caller.key_id, error.reason)
            raise

    async def _shape(self, exchange: Exchange) -> Shape:
        tenant, request = exchange.caller.tenant, exchange.request
        said = caller_turns(request)
        guarded = await self._guardrails.check_input(tenant, [turn.content for turn in said])
        if guarded.denied_by is not None:
            raise denied(guarded.denied_by)
        exchange.input_rule_ids = guarded.rule_ids
        return shape(tenant, request, self._rng, said, guarded.texts)

    async def _encode(self, exchange: Exchange) -> list[int]:
        assert exchange.shape is not None
        prompt = exchange.shape.prompt
        try:
            return await self._encoder.encode(exchange.shape.base_model.text, prompt)
        except TemplateError as error:
            raise InvalidArgumentError([FieldViolation(prompt.field, str(error))]) from None

    async def _answer(
        self,
        exchange: Exchange,
        input_ids: list[int],
        reservation: Reservation,
        outbox: Outbox | None,
        deadline: float,
    ) -> None:
        trail = self._audit.trail(exchange)
        trail.start_admit()
        try:
            await self._generate(exchange, input_ids, reservation, outbox, deadline, trail)
        except BaseException as error:
            trail.abandon_admit()
            if exchange.admit_begun:
                exchange.ended_at = self._clock.monotonic_seconds()
                trail.start_outcome(self._status(error, deadline))
            raise
        exchange.ended_at = self._clock.monotonic_seconds()
        trail.start_outcome("OK")
        await trail.settled()

    async def _generate(
        self,
        exchange: Exchange,
        input_ids: list[int],
        reservation: Reservation,
        outbox: Outbox | None,
        deadline: float,
        trail: AuditTrail,
    ) -> None:
        assert exchange.shape is not None
        assert exchange.cost is not None
        tenant, binding = exchange.caller.tenant, exchange.shape.binding
        held_back = bool(tenant.guardrails.output.rules)
        pool = self._pools.pool(exchange.shape.pool)
        lora_id = binding.rendition.lora_id if binding else None
        if not self._audit.reachable:
            # No place at an endpoint is held while it is unknown whether the policy lets the request on.
            await trail.admitted()
        grant = await pool.acquire(tenant.tenant_uid, exchange.cost, lora_id)
        async with grant:
            await trail.admitted()
            exchange.dispatched_at = self._clock.monotonic_seconds()
            reservation.used_tokens = exchange.cost.input_tokens
            chunks = self._dispatcher.send(exchange, input_ids, grant, deadline)
            heard = None if held_back else outbox
            try:
                exchange.finish_reason = await relay(exchange, chunks, grant, reservation, heard, self._clock)
            except Error:
                # A caller that leaves is charged for its prompt, one whose server fails it is not.
                exchange.fruitless = exchange.first_token_at is None
                reservation.used_tokens = exchange.charged_input_tokens + exchange.output_tokens
                raise
            exchange.last_token_at = self._clock.monotonic_seconds()
        if held_back:
            await self._give_guarded(exchange, outbox)

    async def _give_guarded(self, exchange: Exchange, outbox: Outbox | None) -> None:
        """Judge the whole answer, and give it as one piece."""
        guarded = await self._guardrails.check_output(exchange.caller.tenant, exchange.generated_text)
        exchange.output_rule_ids = guarded.rule_ids
        if guarded.denied_by is not None:
            raise denied(guarded.denied_by)
        if guarded.texts is not None:
            (exchange.guarded_text,) = guarded.texts
        if outbox is not None and exchange.text:
            await outbox.put(exchange.text, exchange.output_tokens)

    def _status(self, error: BaseException, deadline: float) -> str:
        if isinstance(error, Error):
            return error.reason
        if isinstance(error, asyncio.CancelledError):
            return self._cancelled_as(deadline)
        return Reason.INTERNAL

    def _cancelled_as(self, deadline: float) -> str:
        """A deadline cancels too, the caller's own at the server, or ours; and so does the router's end."""
        if self._drain.over:
            return Reason.SHUTTING_DOWN
        if self._clock.monotonic_seconds() >= deadline - _DEADLINE_SLACK_SECONDS:
            return Reason.DEADLINE_PASSED
        return Reason.CANCELLED_BY_CALLER
