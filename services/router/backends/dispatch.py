"""Sends a granted request to its endpoint, with the adapter's weights where they are needed.

A miss is followed by sending once more, a full adapter cache by waiting a little; both happen before anything was
generated. After the first token nothing is sent again, and the bare base model never answers for an adapter.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Protocol

from services.common.backoff import Backoff
from services.common.clock import Clock
from services.common.errors import (
    Error,
    FieldViolation,
    InternalError,
    InvalidArgumentError,
    Reason,
    UnavailableError,
)
from services.router.backends.adapter_weights import AdapterWeightsError
from services.router.backends.backend import (
    AdapterCacheFullError,
    AdapterMissError,
    AdapterUse,
    Backend,
    BackendError,
    BackendMismatchError,
    BackendUnavailableError,
    DispatchRequest,
    ForeignAnswerError,
    PromptTooLongError,
    TokenChunk,
)
from services.router.flow.grant import Grant
from services.router.metrics import RequestMetrics
from services.router.snapshot.model import AdapterBinding
from services.router.stages import Shaped

_log = logging.getLogger(__name__)

# A miss is sent again once; one more try, in case the adapter was evicted again while others sent it.
_MAX_MISSES = 2
_MAX_CACHE_FULL = 4
_CACHE_FULL_BASE_SECONDS = 0.1
_CACHE_FULL_CAP_SECONDS = 1.0


class WeightsSource(Protocol):
    """Where adapters' weights come from: `AdapterWeights`."""

    async def load(self, tenant_uid: str, binding: AdapterBinding) -> bytes:
        """A tenant's adapter in the dialect's form; raises `AdapterWeightsError`."""
        ...


class Dispatcher:
    """Sends requests, by dialect."""

    def __init__(
        self, backends: Mapping[str, Backend], weights: WeightsSource, clock: Clock, metrics: RequestMetrics
    ) -> None:
        self._backends = backends
        self._weights = weights
        self._clock = clock
        self._metrics = metrics

    async def send(self, shaped: Shaped, grant: Grant) -> AsyncGenerator[TokenChunk, None]:
        """Send a request, and send it again where that is safe.

        Args:
            shaped: what is asked.
            grant: its place.

        Raises:
            UnavailableError: the server failed, or has no room for the adapter.
            InvalidArgumentError: the prompt is longer than the server takes.
            InternalError: the adapter's artifact cannot be used, no backend speaks the pool's dialect, or the server
                does not take what the pool's record promises.
        """
        pool = shaped.shape.pool
        backend = self._backends.get(pool.dialect)
        if backend is None:
            _log.error(
                "request %s: pool %s speaks a dialect this router does not",
                shaped.identified.request_id,
                pool.name,
            )
            raise InternalError
        misses, full = 0, Backoff(_CACHE_FULL_BASE_SECONDS, _CACHE_FULL_CAP_SECONDS)
        tries_when_full = 0
        while True:
            begun = False
            request = await self._request(shaped, grant)
            if grant.withdrawn:
                raise UnavailableError(
                    "the pool changed meanwhile", reason=Reason.NO_READY_ENDPOINT, retry_after_seconds=0.0
                )
            timeout_seconds = max(shaped.identified.deadline - self._clock.monotonic_seconds(), 0.001)
            try:
                generating = backend.generate(grant.target, request, timeout_seconds, grant.linger)
                async with aclosing(generating) as chunks:
                    async for chunk in chunks:
                        if not begun:
                            begun = True
                            grant.adapter_accepted()
                        yield chunk
            except AdapterMissError as error:
                self._metrics.adapter_miss()
                misses += 1
                if begun or grant.send_weights or misses > _MAX_MISSES:
                    raise self._failure(shaped, grant, error) from error  # proven: one-resend
            except AdapterCacheFullError as error:
                tries_when_full += 1
                if begun or tries_when_full > _MAX_CACHE_FULL:
                    raise self._failure(shaped, grant, error) from error
                await asyncio.sleep(full.next_delay_seconds())
                continue
            except BackendError as error:
                raise self._failure(shaped, grant, error) from error
            else:
                return
            await grant.adapter_missed()

    async def _request(self, shaped: Shaped, grant: Grant) -> DispatchRequest:
        shape, tenant = shaped.shape, shaped.tenant
        if shape.pool.dedicated_to_uid not in {None, tenant.tenant_uid}:
            _log.error("request %s was about to reach another tenant's pool", shaped.identified.request_id)
            raise InternalError  # proven: dedicated-pool
        adapter = None
        if shape.binding is not None:
            weights = None
            if grant.send_weights:
                try:
                    weights = await self._weights.load(tenant.tenant_uid, shape.binding)
                except AdapterWeightsError as error:
                    _log.error(
                        "request %s: an adapter of tenant %s cannot be sent: %s",
                        shaped.identified.request_id,
                        tenant.tenant_uid,
                        error,
                    )
                    raise InternalError from None
                self._metrics.adapter_sent(len(weights))
            adapter = AdapterUse(shape.binding.rendition.lora_id, tenant.ordinal, weights)
        return DispatchRequest(
            # Another one for each try: to the server two requests with one id are one request.
            request_id=secrets.token_hex(16),
            server_model=shape.pool.server_model,
            input_ids=shaped.input_ids,
            parameters=replace(shape.parameters, max_output_tokens=shaped.cost.max_output_tokens),
            end_token_id=shape.base_model.end_token_id,
            pad_token_id=shape.base_model.pad_token_id,
            adapter=adapter,
        )

    def _failure(self, shaped: Shaped, grant: Grant, error: BackendError) -> Error:
        """The error for the caller; the server's failure is its cause, for the log."""
        if isinstance(error, AdapterCacheFullError | AdapterMissError):
            return UnavailableError("every adapter slot is in use", reason=Reason.ADAPTERS_BUSY)
        if isinstance(error, PromptTooLongError):
            field = shaped.shape.prompt.field
            return InvalidArgumentError(
                [
                    FieldViolation(
                        field, f"{len(shaped.input_ids)} tokens once rendered; the model server takes fewer"
                    )
                ]
            )
        if isinstance(error, BackendMismatchError):
            # Nothing that the caller could do, and no reason to try again.
            _log.error(
                "pool %s: %s refuses what its record promises: %s",
                shaped.shape.pool.name,
                grant.target,
                error.server_text,
            )
            return InternalError()
        if isinstance(error, ForeignAnswerError):
            self._metrics.foreign_answer()
            grant.endpoint_failed()  # proven: a-foreign-answer-stops-its-server
            _log.error(
                "%s answered with the id of another request: it is sent nothing until probed", grant.target
            )
        elif isinstance(error, BackendUnavailableError) and error.broken:
            grant.endpoint_failed()
        return UnavailableError(
            "the model server ended the request without an answer", reason=Reason.MODEL_SERVER_FAILED
        )
