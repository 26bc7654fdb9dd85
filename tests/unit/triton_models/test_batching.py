from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triton_models.cpu_engine import batching
from triton_models.cpu_engine.batching import BatchLimits, BatchScheduler, ScheduledSequence
from triton_models.cpu_engine.errors import QueueFullError, RequestError
from triton_models.cpu_engine.paged_blocks import BlockPool

BLOCK_TOKENS = 4


def scheduler(blocks=16, max_sequences=3, max_batch_tokens=8, max_waiting=64, context_tokens=40):
    limits = BatchLimits(max_sequences, max_batch_tokens, max_waiting, context_tokens)
    return BatchScheduler(BlockPool(blocks, BLOCK_TOKENS), limits)


def sequence(number, prompt=3, new=2):
    return ScheduledSequence(number, list(range(prompt)), prompt, new)


def run_step(batches):
    """Compute a plan; each sampled sequence gets a token and leaves when it has all of them."""
    chunks = batches.plan()
    sampled = [chunk.sequence for chunk in chunks if chunk.samples]
    batches.computed(chunks)
    for one in sampled:
        one.tokens.append(0)
        if one.new_tokens == one.max_new_tokens:
            batches.remove(one)
    return chunks


shapes = st.lists(st.tuples(st.integers(1, 20), st.integers(1, 12)), min_size=1, max_size=12)


@given(shapes=shapes, max_sequences=st.integers(1, 5), extra=st.integers(0, 10), blocks=st.integers(8, 24))
def test_every_sequence_is_computed_once_in_order_within_the_bounds(shapes, max_sequences, extra, blocks):
    batches = scheduler(blocks, max_sequences, max_sequences + extra)
    sequences = [sequence(number, *shape) for number, shape in enumerate(shapes)]
    for one in sequences:
        batches.add(one)
    position = dict.fromkeys(range(len(sequences)), 0)
    steps = 0
    while any(one.new_tokens < one.max_new_tokens for one in sequences):
        steps += 1
        assert steps <= sum(prompt + new for prompt, new in shapes), "no progress"
        chunks = run_step(batches)
        assert sum(chunk.count for chunk in chunks) <= batches.limits.max_batch_tokens
        assert len(chunks) <= max_sequences
        held = [bool(one.blocks) or one.new_tokens > 0 for one in sequences]
        assert held == sorted(held, reverse=True)  # first come, first served
        for chunk in chunks:
            number = chunk.sequence.sequence_id
            assert chunk.start == position[number]
            position[number] = chunk.end
            assert chunk.end <= len(chunk.sequence.tokens)
    assert batches.pool.free_blocks == blocks
    assert batches.plan() == []


def test_blocks_for_prompt_and_longest_answer_are_reserved_at_admission():
    batches = scheduler(blocks=4)
    batches.add(sequence(1, prompt=5, new=4))
    batches.plan()
    assert batches.pool.free_blocks == 4 - 3


def test_a_sequence_waits_until_its_blocks_are_free_and_is_not_overtaken():
    batches = scheduler(blocks=4)
    first, large, small = sequence(1, 8, 4), sequence(2, 8, 4), sequence(3, 1, 1)
    for one in (first, large, small):
        batches.add(one)
    assert {chunk.sequence.sequence_id for chunk in batches.plan()} == {1}  # though the small one would fit
    batches.remove(first)
    assert {chunk.sequence.sequence_id for chunk in batches.plan()} == {2, 3}


def test_decoding_goes_before_a_long_prompt():
    batches = scheduler(max_batch_tokens=4)
    batches.add(sequence(1, prompt=2, new=9))
    run_step(batches)
    batches.add(sequence(2, prompt=10, new=2))
    for _ in range(3):
        chunks = run_step(batches)
        assert [(chunk.sequence.sequence_id, chunk.count) for chunk in chunks[:1]] == [(1, 1)]
        assert chunks[1].count <= 3


def steps_until_first_token():
    """Of a short prompt that comes after a long one."""
    batches = scheduler(blocks=60, max_batch_tokens=8, context_tokens=200)
    batches.add(sequence(1, prompt=150, new=1))
    run_step(batches)
    short = sequence(2, prompt=4, new=2)
    batches.add(short)
    steps = 0
    while not short.new_tokens:
        run_step(batches)
        steps += 1
    return steps


def test_a_short_prompt_does_not_wait_for_the_end_of_a_long_one_before_it():
    assert steps_until_first_token() == 1


def test_that_test_notices_a_long_prompt_that_takes_everything(monkeypatch):
    def oldest_takes_all(wanted, budget):
        return [min(most, max(0, budget - sum(wanted[:place]))) for place, most in enumerate(wanted)]

    monkeypatch.setattr(batching, "fair_shares", oldest_takes_all)
    assert steps_until_first_token() > 10


@given(wanted=st.lists(st.integers(1, 50), max_size=12), budget=st.integers(0, 200))
def test_a_budget_is_divided_fairly_and_wholly(wanted, budget):
    shares = batching.fair_shares(wanted, budget)
    assert sum(shares) == min(budget, sum(wanted))
    assert all(0 <= share <= most for share, most in zip(shares, wanted, strict=True))
    short = [share for share, most in zip(shares, wanted, strict=True) if share < most]
    # Who gets less than he wants gets as much as anybody, but for the odd ones, which go to the oldest.
    assert all(share >= max(shares) - 1 for share in short)
    assert short == sorted(short, reverse=True)


def test_only_the_chunk_that_ends_the_prompt_samples():
    batches = scheduler(max_batch_tokens=4)
    batches.add(sequence(1, prompt=10, new=1))
    samples = []
    for _ in range(3):
        (chunk,) = batches.plan()
        samples.append(chunk.samples)
        batches.computed([chunk])
    assert samples == [False, False, True]


@pytest.mark.parametrize("shape", [(30, 11), (1, 40)])
def test_a_sequence_longer_than_the_context_is_refused_with_its_numbers(shape):
    with pytest.raises(
        RequestError, match=rf"\({shape[0]}\).*\({shape[1]}\).*maximum sequence length \(40\)"
    ):
        scheduler().add(sequence(1, *shape))


def test_a_sequence_that_no_pool_of_this_size_holds_is_refused():
    with pytest.raises(RequestError, match=r"maximum sequence length \(8\)"):
        scheduler(blocks=2).add(sequence(1, prompt=8, new=1))


def test_the_waiting_queue_is_bounded():
    batches = scheduler(max_waiting=2)
    batches.add(sequence(1))
    batches.add(sequence(2))
    with pytest.raises(QueueFullError, match="Maximum queue size of 2"):
        batches.add(sequence(3))


def test_a_waiting_sequence_can_be_removed():
    batches = scheduler(max_sequences=1)
    first, second = sequence(1), sequence(2)
    batches.add(first)
    batches.add(second)
    batches.plan()
    batches.remove(second)
    assert (batches.running, batches.waiting) == (1, 0)
    batches.remove(first)
    assert batches.pool.free_blocks == 16


def test_limits_that_could_starve_a_decoding_sequence_are_refused():
    with pytest.raises(ValueError, match="max_batch_tokens"):
        BatchLimits(max_sequences=9, max_batch_tokens=8, max_waiting=1, context_tokens=1)
