"""The engine: requests in, one batch a step, tokens out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from triton_models.cpu_engine.adapter_cache import AdapterCache
from triton_models.cpu_engine.adapter_layout import unpack
from triton_models.cpu_engine.batching import BatchScheduler, ScheduledSequence
from triton_models.cpu_engine.errors import AdapterMissError, RequestError
from triton_models.cpu_engine.forward_pass import ForwardPass, Row
from triton_models.cpu_engine.model_card import ModelCard
from triton_models.cpu_engine.sampler import Sampler, SamplingParameters


@dataclass(frozen=True, slots=True)
class AdapterReference:
    """The adapter of a request, with its weights if the client sent them."""

    task_id: int
    weights: npt.NDArray[Any] | None = None
    config: npt.NDArray[np.int32] | None = None


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A prompt and how to continue it."""

    prompt: Sequence[int]
    max_new_tokens: int
    end_token_id: int | None = None
    """Ends the generation and is not part of it; None runs to `max_new_tokens`."""
    sampling: SamplingParameters = field(default_factory=SamplingParameters)
    adapter: AdapterReference | None = None


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """The outcome of one step for one request."""

    request_id: int
    token: int | None
    """None where the end token ended the generation, or with an error."""
    finished: bool
    error: str | None = None


@dataclass(slots=True)
class _Running:
    sequence: ScheduledSequence
    sampler: Sampler
    end_token_id: int | None
    adapter_id: int | None
    adapter_slot: int | None


class Engine:
    """Continuous batching over one executor; synchronous, used by one thread."""

    def __init__(
        self,
        card: ModelCard,
        executor: ForwardPass,
        scheduler: BatchScheduler,
        adapters: AdapterCache,
        max_rank: int,
    ) -> None:
        self._card = card
        self._executor = executor
        self._scheduler = scheduler
        self._adapters = adapters
        self._max_rank = max_rank
        self._requests: dict[int, _Running] = {}

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._requests

    @property
    def free_blocks(self) -> int:
        """KV blocks that no sequence holds."""
        return self._scheduler.pool.free_blocks

    def add(self, request_id: int, request: GenerationRequest) -> None:
        """Queue a request.

        Raises:
            RequestError: it cannot be served; nothing of it is kept.
        """
        self._check_tokens(request)
        sequence = ScheduledSequence(
            request_id, list(request.prompt), len(request.prompt), request.max_new_tokens
        )
        # Before the adapter: a request that cannot be served must not cost an unpacking or evict another adapter.
        self._scheduler.check(sequence)
        sampler = Sampler(request.sampling)
        slot = self._acquire_adapter(request.adapter) if request.adapter else None
        adapter_id = request.adapter.task_id if request.adapter else None
        self._scheduler.add(sequence)
        self._requests[request_id] = _Running(sequence, sampler, request.end_token_id, adapter_id, slot)

    def cancel(self, request_id: int) -> bool:
        """Drop a request and free its blocks and adapter; False if it has ended or was never added."""
        if request_id not in self._requests:
            return False
        self._remove(request_id)
        return True

    def step(self) -> list[TokenEvent]:
        """Run one batch; empty if there is nothing to do or only prompts were computed."""
        chunks = self._scheduler.plan()
        if not chunks:
            return []
        rows = [
            Row(
                tokens=chunk.tokens,
                start=chunk.start,
                blocks=chunk.sequence.blocks,
                adapter_slot=self._requests[chunk.sequence.sequence_id].adapter_slot,
                samples=chunk.samples,
            )
            for chunk in chunks
        ]
        logits = self._executor.forward(rows)
        sampling = [chunk.sequence for chunk in chunks if chunk.samples]
        self._scheduler.computed(chunks)
        return [self._next_token(one, row) for one, row in zip(sampling, logits, strict=True)]

    def _next_token(self, sequence: ScheduledSequence, logits: npt.NDArray[np.float32]) -> TokenEvent:
        request_id = sequence.sequence_id
        running = self._requests[request_id]
        if not np.isfinite(logits).all():
            # Isolation does not depend on it: the next holder of a block reads only its own values.
            self._executor.forget_blocks(sequence.blocks)
            self._remove(request_id)
            return TokenEvent(request_id, None, finished=True, error="the model's output is not finite")
        token = running.sampler.sample(logits)
        if token == running.end_token_id:
            self._remove(request_id)
            return TokenEvent(request_id, None, finished=True)
        sequence.tokens.append(token)
        finished = sequence.new_tokens == sequence.max_new_tokens
        if finished:
            self._remove(request_id)
        return TokenEvent(request_id, token, finished)

    def _remove(self, request_id: int) -> None:
        running = self._requests.pop(request_id)
        self._scheduler.remove(running.sequence)
        if running.adapter_id is not None:
            self._adapters.release(running.adapter_id)

    def _acquire_adapter(self, wanted: AdapterReference) -> int:
        if wanted.task_id not in self._adapters:
            if wanted.weights is None or wanted.config is None:
                raise AdapterMissError(wanted.task_id)
            adapter = unpack(wanted.weights, wanted.config, self._card, self._max_rank)
            self._executor.load_adapter(self._adapters.put(wanted.task_id), adapter)
        return self._adapters.acquire(wanted.task_id)

    def _check_tokens(self, request: GenerationRequest) -> None:
        if not request.prompt:
            raise RequestError("input_ids is empty")
        if request.max_new_tokens < 1:
            raise RequestError(f"Invalid request_output_len ({request.max_new_tokens}). It must be > 0")
        vocabulary = self._card.vocabulary_size
        if min(request.prompt) < 0 or max(request.prompt) >= vocabulary:
            raise RequestError(f"input_ids holds a token outside of the vocabulary [0, {vocabulary})")
