"""The adapter cache of the twin as a client sees it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.fakes.peft_adapters import random_adapter, wire_tensors
from tests.integration.triton_process import prompt_tensors, read, running_twin, scalar
from triton_models.cpu_engine.adapter_layout import LowRank, module_sizes

pytestmark = pytest.mark.integration

SLOTS = 2
PROMPT = [1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47, 2, 198, 1, 520, 9531, 198]
STREAMING = scalar(True, bool)


@pytest.fixture(scope="module")
def twin(prepared_model, tmp_path_factory):
    with running_twin(prepared_model, tmp_path_factory.mktemp("twin"), {"lora_cache_slots": SLOTS}) as server:
        yield server


@pytest.fixture
def adapter(prepared_model):
    def make(task_id, **options):
        return random_adapter(prepared_model.card, task_id, **({"seed": task_id} | options))

    return make


def by_id(task_id):
    return {"lora_task_id": scalar(task_id, np.uint64)}


def miss(task_id):
    return f"due to the following error: LoRA task {task_id} not found in cache. Please send LoRA weights with request"


def test_an_unknown_id_without_weights_is_a_miss(twin):
    reply = twin.generate(PROMPT, 4, **by_id(2**62 + 1))
    assert reply.error.startswith("Executor failed process requestId ")
    assert reply.error.endswith(miss(2**62 + 1))
    assert not reply.responses


@pytest.mark.parametrize("columns", [3, 4])
def test_weights_once_then_the_id_alone(twin, adapter, columns):
    task_id = 100 + columns
    base = twin.generate(PROMPT, 12).tokens
    first = twin.generate(PROMPT, 12, **adapter(task_id, columns=columns))
    assert first.error is None
    again = twin.generate(PROMPT, 12, **by_id(task_id))
    assert again.tokens == first.tokens != base
    assert twin.generate(PROMPT, 12).tokens == base


def test_an_id_keeps_the_weights_it_came_with(twin, adapter):
    first = twin.generate(PROMPT, 12, **adapter(200)).tokens
    assert twin.generate(PROMPT, 12, **adapter(200, seed=999)).tokens == first


def test_the_least_recently_used_is_evicted(twin, adapter):
    assert twin.generate(PROMPT, 1, **adapter(301)).error is None
    assert twin.generate(PROMPT, 1, **adapter(302)).error is None
    assert twin.generate(PROMPT, 1, **by_id(301)).error is None
    assert twin.generate(PROMPT, 1, **adapter(303)).error is None
    assert twin.generate(PROMPT, 1, **by_id(302)).error.endswith(miss(302))
    assert twin.generate(PROMPT, 1, **by_id(301)).error is None
    assert twin.generate(PROMPT, 1, **by_id(303)).error is None


def test_an_adapter_in_use_is_pinned_and_the_cache_can_be_full(twin, adapter):
    streams = {
        f"pin-{task_id}": twin.stream(
            prompt_tensors(PROMPT, 2000) | adapter(task_id) | {"streaming": STREAMING}, f"pin-{task_id}"
        )
        for task_id in (401, 402)
    }
    try:
        for stream in streams.values():
            assert not next(iter(stream)).error_message
        full = twin.generate(PROMPT, 1, **adapter(403))
        assert full.error.endswith("error: PEFT Cache is full. Could not store taskId=403")
        assert twin.generate(PROMPT, 1, **by_id(401)).error is None
    finally:
        for request_id, stream in streams.items():
            twin.stop(request_id)
            assert read(stream).finals[-1]
    assert twin.generate(PROMPT, 1, **adapter(403)).error is None


def test_many_adapters_through_two_slots_never_mix(twin, adapter):
    """Eviction and reloading under load: each answer is its own adapter's or an honest miss or full."""
    task_ids = [501, 502, 503]
    expected = {one: twin.generate(PROMPT, 10, **adapter(one)).tokens for one in task_ids}
    assert len({tuple(tokens) for tokens in expected.values()}) == len(task_ids)

    def one_of(number):
        task_id = task_ids[number % len(task_ids)]
        return task_id, twin.generate(PROMPT, 10, **adapter(task_id), streaming=STREAMING)

    with ThreadPoolExecutor(6) as pool:
        replies = list(pool.map(one_of, range(24)))
    answered = [(task_id, reply) for task_id, reply in replies if reply.error is None]
    assert len(answered) >= 8
    for task_id, reply in answered:
        assert reply.tokens == expected[task_id]
    for task_id, reply in replies:
        assert reply.error is None or reply.error.endswith(f"Could not store taskId={task_id}")


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_non_finite_adapter_is_refused_and_not_kept(twin, adapter, value):
    tensors = adapter(600)
    tensors["lora_weights"][0, 3, 5] = value
    assert "lora_weights has non-finite values for attn_q" in twin.generate(PROMPT, 1, **tensors).error
    assert twin.generate(PROMPT, 1, **by_id(600)).error.endswith(miss(600))


def test_an_adapter_of_the_largest_values_changes_no_neighbour(twin, prepared_model):
    largest = np.float16(np.finfo(np.float16).max)
    terms = {
        (layer, module): LowRank(np.full((8, into), largest), np.full((out, 8), largest))
        for layer in range(prepared_model.card.layers)
        for module, (into, out) in module_sizes(prepared_model.card).items()
    }
    hostile = wire_tensors(terms, 700)
    expected = twin.generate(PROMPT, 30).tokens
    with ThreadPoolExecutor(2) as pool:
        neighbour = pool.submit(twin.generate, PROMPT, 30, streaming=STREAMING)
        for _ in range(3):
            twin.generate(PROMPT, 10, **hostile)
        assert neighbour.result().tokens == expected
    assert twin.generate(PROMPT, 30).tokens == expected  # in the blocks that the hostile ones left


def test_lora_tensors_that_do_not_belong_together_are_refused(twin, adapter):
    whole = adapter(800)
    for left_out, message in (
        ("lora_task_id", "lora_task_id must be set for LoRA inference"),
        ("lora_config", "Request for LoRA inference must have both lora_weights and lora_keys"),
        ("lora_weights", "Request for LoRA inference must have both lora_weights and lora_keys"),
    ):
        part = {name: tensor for name, tensor in whole.items() if name != left_out}
        assert message in twin.generate(PROMPT, 1, **part).error


def test_an_adapter_stays_resident_while_a_refused_one_is_sent(twin, adapter):
    assert twin.generate(PROMPT, 1, **adapter(901)).error is None
    assert twin.generate(PROMPT, 1, **adapter(902)).error is None
    too_large = adapter(903, rank=65)
    assert "Invalid low_rank (65)" in twin.generate(PROMPT, 1, **too_large).error
    assert twin.generate(PROMPT, 1, **by_id(901)).error is None
    assert twin.generate(PROMPT, 1, **by_id(902)).error is None
    assert twin.generate(PROMPT, 1, **by_id(903)).error.endswith(miss(903))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ([99, 0, 1, 0], "lora module 99 not enabled for this model"),
        ([13, 0, 1, 0], "lora module moe_h_to_4h not enabled for this model"),
        ([1, 30, 1, 0], "Expected layerId to be in the range [0, numModelLayers)"),
        ([1, 0, 0, 0], "Invalid low_rank (0). low_rank must be smaller than mMaxLowRank (64)"),
        (
            [1, 0, 2**31 - 1, 0],
            "Invalid low_rank (2147483647). low_rank must be smaller than mMaxLowRank (64)",
        ),
        ([1, 0, 2, 0], "lora_weights has to few values for attn_q"),
        ([1, 0, 1, 1], "lora module attn_q has a DoRA magnitude; DoRA is not supported"),
        ([1, 0], "Expected dim2 of lora_keys to have a size in [3, 4]"),
    ],
)
def test_an_adapter_that_does_not_fit_the_model_is_refused_and_not_kept(twin, config, message):
    tensors = by_id(1000) | {
        "lora_weights": np.zeros((1, 1, 1152), np.float16),  # room for rank 1 of attn_q
        "lora_config": np.array([[config]], np.int32),
    }
    assert twin.generate(PROMPT, 1, **tensors).error.endswith(f"due to the following error: {message}")
    assert twin.generate(PROMPT, 1, **by_id(1000)).error.endswith(miss(1000))
