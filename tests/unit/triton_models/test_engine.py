from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.echo_executor import EchoExecutor
from tests.fakes.model_cards import tiny_card
from triton_models.cpu_engine.adapter_cache import AdapterCache
from triton_models.cpu_engine.adapter_layout import LoraModule, LowRank, module_sizes, pack
from triton_models.cpu_engine.batching import BatchLimits, BatchScheduler
from triton_models.cpu_engine.engine import AdapterReference, Engine, GenerationRequest
from triton_models.cpu_engine.errors import AdapterCacheFullError, AdapterMissError, RequestError
from triton_models.cpu_engine.paged_blocks import BlockPool

CARD = tiny_card()
BLOCKS, BLOCK_TOKENS, MAX_RANK = 24, 4, 2


def make_engine(slots=3, max_sequences=4, max_batch_tokens=6, max_waiting=64):
    executor = EchoExecutor(CARD.vocabulary_size, BLOCKS, BLOCK_TOKENS)
    limits = BatchLimits(max_sequences, max_batch_tokens, max_waiting, CARD.context_tokens)
    scheduler = BatchScheduler(BlockPool(BLOCKS, BLOCK_TOKENS), limits)
    return Engine(CARD, executor, scheduler, AdapterCache(slots), MAX_RANK), executor


def adapter(task_id, seed=None):
    into, out = module_sizes(CARD)[LoraModule.ATTN_Q]
    random = np.random.default_rng(task_id if seed is None else seed)
    term = LowRank(random.normal(size=(1, into)), random.normal(size=(out, 1)))
    return AdapterReference(task_id, *pack({(0, LoraModule.ATTN_Q): term}))


def by_id(task_id):
    return AdapterReference(task_id)


def run(engine, requests):
    tokens = {number: [] for number in requests}
    for number, request in requests.items():
        engine.add(number, request)
    while not engine.idle:
        for event in engine.step():
            assert event.error is None
            if event.token is not None:
                tokens[event.request_id].append(event.token)
    return tokens


requests = st.lists(
    st.builds(
        GenerationRequest,
        prompt=st.lists(st.integers(0, CARD.vocabulary_size - 1), min_size=1, max_size=15),
        max_new_tokens=st.integers(1, 12),
        end_token_id=st.one_of(st.none(), st.integers(0, CARD.vocabulary_size - 1)),
        adapter=st.one_of(st.none(), st.integers(1, 3).map(adapter)),
    ),
    min_size=1,
    max_size=10,
)


@given(requests=requests, max_sequences=st.integers(1, 5), extra=st.integers(0, 6))
def test_a_request_in_a_batch_gets_what_it_gets_alone(requests, max_sequences, extra):
    numbered = dict(enumerate(requests))
    engine, _ = make_engine(max_sequences=max_sequences, max_batch_tokens=max_sequences + extra)
    together = run(engine, numbered)
    assert engine.free_blocks == BLOCKS
    for number, request in numbered.items():
        alone, _ = make_engine()
        assert together[number] == run(alone, {number: request})[number]


def test_the_end_token_ends_and_is_not_part_of_the_answer():
    engine, _ = make_engine()
    whole = run(engine, {1: GenerationRequest([1, 2], 6)})[1]
    end = whole[3]
    cut = whole.index(end)
    assert run(engine, {2: GenerationRequest([1, 2], 6, end_token_id=end)})[2] == whole[:cut]


def test_the_last_event_of_a_request_says_so():
    engine, _ = make_engine()
    engine.add(1, GenerationRequest([1], 2))
    assert [event.finished for _ in range(2) for event in engine.step()] == [False, True]


def test_weights_are_needed_once_and_the_first_stay():
    engine, executor = make_engine()
    first = run(engine, {1: GenerationRequest([1], 3, adapter=adapter(7))})[1]
    again = run(engine, {2: GenerationRequest([1], 3, adapter=by_id(7))})[2]
    ignored = run(engine, {3: GenerationRequest([1], 3, adapter=adapter(7, seed=99))})[3]
    assert first == again == ignored
    assert len(executor.adapters) == 1


def test_a_miss_a_full_cache_and_a_bad_adapter_keep_nothing():
    engine, executor = make_engine(slots=1)
    with pytest.raises(AdapterMissError):
        engine.add(1, GenerationRequest([1], 1, adapter=by_id(5)))
    broken = adapter(5)
    broken.weights[0, 0] = np.inf
    with pytest.raises(RequestError, match="non-finite"):
        engine.add(2, GenerationRequest([1], 1, adapter=broken))
    assert executor.adapters == {}
    engine.add(3, GenerationRequest([1], 9, adapter=adapter(5)))
    with pytest.raises(AdapterCacheFullError):
        engine.add(4, GenerationRequest([1], 1, adapter=adapter(6)))
    engine.cancel(3)
    assert engine.idle
    assert run(engine, {5: GenerationRequest([1], 1, adapter=adapter(6))})[5]


@pytest.mark.parametrize("refused", ["length", "queue"])
def test_a_request_that_does_not_get_into_the_queue_touches_no_adapter(refused):
    engine, executor = make_engine(slots=1, max_sequences=1, max_waiting=1)
    before = run(engine, {1: GenerationRequest([1], 1, adapter=adapter(1))})[1]
    if refused == "queue":
        engine.add(2, GenerationRequest([1], 1))
    new_tokens = CARD.context_tokens if refused == "length" else 1
    broken = AdapterReference(2, np.zeros(0), np.zeros(0, np.int32))
    with pytest.raises(
        RequestError, match="maximum sequence length" if refused == "length" else "queue size"
    ):
        engine.add(3, GenerationRequest([1], new_tokens, adapter=broken))
    engine.cancel(2)
    assert len(executor.adapters) == 1
    assert run(engine, {4: GenerationRequest([1], 1, adapter=by_id(1))})[4] == before


def test_cancelling_frees_blocks_and_the_rest_goes_on():
    engine, _ = make_engine()
    engine.add(1, GenerationRequest([1] * 9, 20))
    engine.add(2, GenerationRequest([2] * 3, 3))
    tokens = [event.token for event in engine.step() if event.request_id == 2]
    assert engine.free_blocks < BLOCKS
    assert engine.cancel(1)
    assert not engine.cancel(1)
    alone, _ = make_engine()
    while not engine.idle:
        tokens += [event.token for event in engine.step()]
    assert tokens == run(alone, {2: GenerationRequest([2] * 3, 3)})[2]
    assert engine.free_blocks == BLOCKS


def test_output_that_is_not_finite_fails_its_own_request_and_its_blocks_are_wiped():
    engine, executor = make_engine()
    executor.broken_contexts.add((3, 3, 3))
    engine.add(1, GenerationRequest([3, 3, 3], 5))
    engine.add(2, GenerationRequest([4], 2))
    events = engine.step()
    assert [(event.request_id, event.error) for event in events if event.error] == [
        (1, "the model's output is not finite")
    ]
    assert executor.forgotten
    assert not engine.cancel(1)
    assert len(engine.step()) == 1
    assert engine.free_blocks == BLOCKS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": []}, "input_ids is empty"),
        ({"prompt": [CARD.vocabulary_size]}, "outside of the vocabulary"),
        ({"prompt": [1, -1]}, "outside of the vocabulary"),
        ({"max_new_tokens": 0}, "Invalid request_output_len"),
    ],
)
def test_senseless_requests_are_refused(change, message):
    engine, executor = make_engine()
    with pytest.raises(RequestError, match=message):
        engine.add(1, replace(GenerationRequest([1], 1), **change))
    assert engine.idle
    assert executor.steps == 0
