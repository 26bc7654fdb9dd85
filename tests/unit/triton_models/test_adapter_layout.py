from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.model_cards import tiny_card
from triton_models.cpu_engine.adapter_layout import LoraModule, LowRank, module_sizes, pack, unpack
from triton_models.cpu_engine.errors import RequestError

CARD = tiny_card()
SIZES = module_sizes(CARD)
MAX_RANK = 4

places = st.tuples(st.integers(0, CARD.layers - 1), st.sampled_from(LoraModule))
ranks = st.dictionaries(places, st.integers(1, MAX_RANK), min_size=1)


def adapter_of(ranks, seed=0):
    random = np.random.default_rng(seed)
    return {
        (layer, module): LowRank(
            a=random.normal(size=(rank, SIZES[module][0])).astype(np.float16),
            b=random.normal(size=(SIZES[module][1], rank)).astype(np.float16),
        )
        for (layer, module), rank in ranks.items()
    }


def one_row(rank=2):
    return pack(adapter_of({(0, LoraModule.ATTN_V): rank}))


@given(ranks=ranks, columns=st.sampled_from([3, 4]), batched=st.booleans())
def test_packing_and_unpacking_gives_the_same_adapter(ranks, columns, batched):
    adapter = adapter_of(ranks)
    weights, config = pack(adapter, columns=columns)
    assert config.shape == (len(adapter), columns)
    if batched:
        weights, config = weights[None], config[None]
    back = unpack(weights, config, CARD, MAX_RANK)
    assert back.keys() == adapter.keys()
    for place, term in adapter.items():
        np.testing.assert_array_equal(back[place].a, term.a)
        np.testing.assert_array_equal(back[place].b, term.b)


def test_a_row_is_a_then_b_then_zeros():
    weights, config = pack(adapter_of({(0, LoraModule.ATTN_K): 1, (1, LoraModule.MLP_4H_TO_H): 2}))
    term = adapter_of({(0, LoraModule.ATTN_K): 1})[0, LoraModule.ATTN_K]
    used = SIZES[LoraModule.ATTN_K][0] + SIZES[LoraModule.ATTN_K][1]
    np.testing.assert_array_equal(weights[0, :used], np.concatenate([term.a.ravel(), term.b.ravel()]))
    assert not weights[0, used:].any()
    assert config.tolist() == [[2, 0, 1, 0], [6, 1, 2, 0]]


def test_gate_and_up_have_the_converters_ids():
    assert (LoraModule.MLP_H_TO_4H, LoraModule.MLP_4H_TO_H, LoraModule.MLP_GATE) == (5, 6, 7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w, c: (w[0], c), "Invalid shape for lora_weights tensor"),
        (lambda w, c: (w, c[:0]), "Expected dim1 lora_weights and lora_keys to have the same size"),
        (lambda w, c: (w[:0], c[:0]), "Expected dim1 lora_weights and lora_keys to have the same size"),
        (lambda w, c: (w, c[:, :2]), "Expected dim2 of lora_keys to have a size in [3, 4]"),
        (lambda w, c: (w, np.hstack([c, c])), "Expected dim2 of lora_keys to have a size in [3, 4]"),
        (
            lambda w, c: (w, np.add(c, [[0, 2, 0, 0]])),
            "Expected layerId to be in the range [0, numModelLayers)",
        ),
        (lambda w, c: (w, c - [[0, 1, 0, 0]]), "Expected layerId to be in the range [0, numModelLayers)"),
        (lambda w, c: (w, c * [[0, 1, 1, 1]]), "lora module attn_qkv not enabled for this model"),
        (lambda w, c: (w, np.add(c, [[96, 0, 0, 0]])), "lora module 99 not enabled for this model"),
        (lambda w, c: (w[:, :-1], c), "lora_weights has to few values for attn_v"),
        (
            lambda w, c: (w, np.add(c, [[0, 0, 3, 0]])),
            "Invalid low_rank (5). low_rank must be smaller than mMaxLowRank (4)",
        ),
        (
            lambda w, c: (w, c * [[1, 1, 0, 1]]),
            "Invalid low_rank (0). low_rank must be smaller than mMaxLowRank (4)",
        ),
        (lambda w, c: (w, np.add(c, [[0, 0, 0, 1]])), "DoRA is not supported"),
        (lambda w, c: (np.vstack([w, w]), np.vstack([c, c])), "attn_v of layer 0 is given twice"),
    ],
)
def test_what_does_not_fit_is_refused_in_tensorrt_llms_words(change, message):
    weights, config = change(*one_row())
    with pytest.raises(RequestError) as refused:
        unpack(weights, config, CARD, MAX_RANK)
    assert message in str(refused.value)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("place", [0, -1])
def test_a_single_non_finite_value_is_refused(value, place):
    weights, config = one_row()
    weights[0, place] = value
    with pytest.raises(RequestError, match="non-finite values for attn_v"):
        unpack(weights, config, CARD, MAX_RANK)


def test_the_padding_is_not_looked_at():
    weights, config = one_row()
    padded = np.hstack([weights, np.full((1, 3), np.nan, np.float16)])
    assert unpack(padded, config, CARD, MAX_RANK).keys() == {(0, LoraModule.ATTN_V)}
