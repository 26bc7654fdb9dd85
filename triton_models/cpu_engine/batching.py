"""Continuous batching: chooses the tokens of each sequence that the next step computes.

A sequence is admitted, first come first served, only when the blocks for its prompt and all the tokens it may
generate can be set aside; an admitted sequence is never preempted. Decoding sequences go first, so that a long
prompt, computed in chunks, delays another sequence's next token by at most one chunk; prompts share the rest of the
step, so that a short one does not wait for the end of a long one before it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from triton_models.cpu_engine.errors import QueueFullError, RequestError
from triton_models.cpu_engine.paged_blocks import BlockPool


@dataclass(slots=True)
class ScheduledSequence:
    """A sequence and how far it is computed."""

    sequence_id: int
    tokens: list[int]
    """The prompt, followed by the tokens generated so far."""
    prompt_tokens: int
    max_new_tokens: int
    computed_tokens: int = 0
    """How many of `tokens` have their keys and values in the cache."""
    blocks: tuple[int, ...] = ()

    @property
    def new_tokens(self) -> int:
        """How many tokens were generated."""
        return len(self.tokens) - self.prompt_tokens

    @property
    def missing_tokens(self) -> int:
        """How many of `tokens` are not computed yet."""
        return len(self.tokens) - self.computed_tokens

    @property
    def total_tokens(self) -> int:
        """Prompt and the longest possible answer."""
        return self.prompt_tokens + self.max_new_tokens


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens of one sequence to compute in one step."""

    sequence: ScheduledSequence
    start: int
    count: int

    @property
    def tokens(self) -> Sequence[int]:
        """The token ids at positions start .. start + count."""
        return self.sequence.tokens[self.start : self.start + self.count]

    @property
    def end(self) -> int:
        """The position after the last token."""
        return self.start + self.count

    @property
    def samples(self) -> bool:
        """Whether the step's last logits of this sequence give its next token."""
        return self.end == len(self.sequence.tokens)


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Bounds of one step and of the queue before it."""

    max_sequences: int
    max_batch_tokens: int
    """Tokens computed in one step; at least `max_sequences`, so that every decoding sequence always fits."""
    max_waiting: int
    context_tokens: int

    def __post_init__(self) -> None:
        if not 1 <= self.max_sequences <= self.max_batch_tokens or self.max_waiting < 1:
            raise ValueError("limits need max_waiting >= 1 and 1 <= max_sequences <= max_batch_tokens")


@dataclass(slots=True)
class BatchScheduler:
    """Sequences waiting and running over one pool of blocks."""

    pool: BlockPool
    limits: BatchLimits
    _waiting: deque[ScheduledSequence] = field(default_factory=deque)
    _running: list[ScheduledSequence] = field(default_factory=list)

    @property
    def waiting(self) -> int:
        """How many sequences are not admitted yet."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """How many sequences hold blocks."""
        return len(self._running)

    def check(self, sequence: ScheduledSequence) -> None:
        """Refuse a sequence that `add` would refuse.

        Raises:
            RequestError: it could not run even on an idle engine.
            QueueFullError: too many wait already.
        """
        most = min(self.limits.context_tokens, self.pool.total_tokens)
        if sequence.total_tokens > most:
            raise RequestError(
                f"Prompt length ({sequence.prompt_tokens}) plus request_output_len ({sequence.max_new_tokens}) "
                f"exceeds maximum sequence length ({most})"
            )
        if len(self._waiting) >= self.limits.max_waiting:
            raise QueueFullError(self.limits.max_waiting)

    def add(self, sequence: ScheduledSequence) -> None:
        """Queue a sequence.

        Raises:
            RequestError: for the reasons of `check`.
        """
        self.check(sequence)
        self._waiting.append(sequence)

    def plan(self) -> list[Chunk]:
        """Admit what fits, then choose the next step's tokens; empty if there is nothing to do."""
        self._admit()
        decoding = [one for one in self._running if one.missing_tokens == 1]
        prefilling = [one for one in self._running if one.missing_tokens > 1]
        left = self.limits.max_batch_tokens - len(decoding)
        counts = [1] * len(decoding) + fair_shares([one.missing_tokens for one in prefilling], left)
        return [
            Chunk(sequence, sequence.computed_tokens, count)
            for sequence, count in zip([*decoding, *prefilling], counts, strict=True)
            if count
        ]

    def computed(self, chunks: Sequence[Chunk]) -> None:
        """Record that a plan's chunks are in the cache."""
        for chunk in chunks:
            chunk.sequence.computed_tokens = chunk.end

    def remove(self, sequence: ScheduledSequence) -> None:
        """Forget a waiting or running sequence and free its blocks."""
        if sequence.blocks:
            self._running.remove(sequence)
            self.pool.release(sequence.blocks)
            sequence.blocks = ()
        else:
            self._waiting.remove(sequence)

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self.limits.max_sequences:
            wanted = self.pool.blocks_for(self._waiting[0].total_tokens)
            if wanted > self.pool.free_blocks:
                return  # smaller ones do not overtake it, or it might never run
            sequence = self._waiting.popleft()
            sequence.blocks = self.pool.allocate(wanted)
            self._running.append(sequence)


def fair_shares(wanted: Sequence[int], budget: int) -> list[int]:
    """Divide a budget by max-min fairness; a remainder goes to the oldest.

    No share exceeds its demand, and none exceeds that of a larger demand.

    Args:
        wanted: The demands, the oldest first.
        budget: All of it is given out if the demands reach it.
    """
    shares = [0] * len(wanted)
    while short := [place for place, most in enumerate(wanted) if shares[place] < most]:
        each = budget // len(short)
        for place in short[: None if each else budget]:
            share = min(max(each, 1), wanted[place] - shares[place])
            shares[place] += share
            budget -= share
        if not each:
            break
    return shares
