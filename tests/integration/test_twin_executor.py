"""The compiled graph itself: what one sequence leaves in memory never reaches another."""

from __future__ import annotations

import numpy as np
import pytest

from triton_models.cpu_engine.adapter_layout import LoraModule, LowRank, module_sizes
from triton_models.cpu_engine.executor import BLOCK_TOKENS, Executor, ExecutorShape
from triton_models.cpu_engine.forward_pass import Row
from triton_models.cpu_engine.graph import map_safetensors

pytestmark = pytest.mark.integration

PROMPT = list(range(100, 150))


@pytest.fixture(scope="module")
def executor(prepared_model):
    shape = ExecutorShape(kv_blocks=8, adapter_slots=2, max_rank=4, threads=2)
    return Executor(prepared_model.card, map_safetensors(prepared_model.weights_path), shape)


def row(tokens, start=0, blocks=(0, 1, 2), slot=None, samples=True):
    return Row(tokens, start, blocks, slot, samples)


def test_what_a_block_held_before_does_not_matter(executor):
    """The attention kernel computes whole blocks; the unwritten part of the last one must not count."""
    expected = executor.forward([row(PROMPT)]).copy()
    for cache in executor._kv_cache:
        cache[...] = np.nan
    np.testing.assert_array_equal(executor.forward([row(PROMPT)]), expected)
    written = executor._kv_cache[0][0]
    assert np.isfinite(written).all()  # else the cache above was not the one in use
    executor.forget_blocks(range(8))
    assert all(np.isfinite(cache).all() for cache in executor._kv_cache)


def test_chunks_give_what_the_whole_prompt_gives(executor):
    whole = executor.forward([row(PROMPT)]).copy()
    for start in range(0, len(PROMPT), 7):
        last = executor.forward([row(PROMPT[start : start + 7], start)])
    np.testing.assert_allclose(last, whole, atol=2e-3)
    assert len(PROMPT) > BLOCK_TOKENS


def test_rows_that_do_not_sample_have_no_logits(executor):
    both = [row(PROMPT[:5], blocks=(0,), samples=False), row(PROMPT[:9], blocks=(1,))]
    assert executor.forward(both).shape[0] == 1
    assert executor.forward(both[:1]).shape[0] == 0


def test_a_neighbours_adapter_changes_nothing(executor, prepared_model):
    random = np.random.default_rng(0)
    into, out = module_sizes(prepared_model.card)[LoraModule.ATTN_Q]
    term = LowRank(random.normal(size=(3, into)), random.normal(size=(out, 3)))
    executor.load_adapter(0, {(4, LoraModule.ATTN_Q): term})
    plain = executor.forward([row(PROMPT)]).copy()
    mixed = executor.forward([row(PROMPT), row(PROMPT, blocks=(3, 4), slot=0)])
    np.testing.assert_allclose(mixed[0], plain[0], atol=2e-3)
    assert np.abs(mixed[1] - plain[0]).max() > 0.5
