from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from triton_models.cpu_engine.adapter_layout import LoraModule, LowRank
from triton_models.cpu_engine.adapter_staging import AdapterStaging

PLACES = {(0, LoraModule.ATTN_Q): (6, 4), (1, LoraModule.MLP_GATE): (6, 10)}
SLOTS, MAX_RANK = 4, 5


def adapter(random):
    """Any of the places, each with a rank of its own."""
    chosen = [place for place in PLACES if random.random() < 0.8] or list(PLACES)[:1]
    terms = {}
    for place in chosen:
        rank = int(random.integers(1, MAX_RANK + 1))
        into, out = PLACES[place]
        terms[place] = LowRank(random.normal(size=(rank, into)), random.normal(size=(out, rank)))
    return terms


batches = st.lists(
    st.tuples(
        st.lists(st.one_of(st.none(), st.integers(0, SLOTS - 1)), min_size=1, max_size=6),
        st.one_of(st.none(), st.integers(0, SLOTS - 1)),
    ),
    min_size=1,
    max_size=8,
)


@given(batches=batches, seed=st.integers(0, 2**32 - 1))
def test_each_row_gets_its_own_adapters_term_and_nothing_else(batches, seed):
    random = np.random.default_rng(seed)
    staging = AdapterStaging(PLACES, SLOTS, MAX_RANK)
    stored = [adapter(random) for _ in range(SLOTS)]
    for slot, one in enumerate(stored):
        staging.store(slot, one)
    bound: dict[Any, Any] = {}
    for slots, replaced in batches:
        if replaced is not None:
            stored[replaced] = adapter(random)
            staging.store(replaced, stored[replaced])
        bound = staging.stage(slots) or bound
        counts = random.integers(1, 3, len(slots))
        mask = staging.mask(slots, counts)
        assert mask.shape[:2] == (counts.sum(), 1)
        for place, (into, out) in PLACES.items():
            x = random.normal(size=(counts.sum(), into)).astype(np.float32)
            a, b = bound[place]
            actual = ((x @ a.T) * mask[:, 0]) @ b
            for y, row, slot in zip(actual, x, np.repeat(np.array(slots, object), counts), strict=True):
                term = None if slot is None else stored[slot].get(place)
                expected = np.zeros(out) if term is None else term.b @ (term.a @ row)
                np.testing.assert_allclose(y, expected, atol=1e-4)


def test_an_unchanged_batch_is_not_staged_again():
    staging = AdapterStaging(PLACES, SLOTS, MAX_RANK)
    staging.store(1, adapter(np.random.default_rng(0)))
    assert staging.stage([1, None]) is not None
    assert staging.stage([None, 1, 1]) is None
    assert staging.stage([None]) is not None
