from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from triton_models.cpu_engine.errors import RequestError
from triton_models.cpu_engine.sampler import Sampler, SamplingParameters

logits = arrays(np.float32, 20, elements=st.floats(-20, 20, width=32))


@pytest.mark.parametrize(
    "parameters",
    [
        SamplingParameters(),
        SamplingParameters(temperature=0.0, top_p=0.9),
        SamplingParameters(top_k=1, top_p=0.9),
        SamplingParameters(temperature=0.7, top_p=-1.0),
    ],
)
@given(row=logits)
def test_greedy_takes_the_first_largest(parameters, row):
    assert Sampler(parameters).sample(row) == int(row.argmax())


@given(row=logits, top_k=st.integers(2, 20), seed=st.integers(0, 2**64 - 1))
def test_top_k_never_leaves_the_k_largest(row, top_k, seed):
    sampler = Sampler(SamplingParameters(top_k=top_k, seed=seed, temperature=2.0))
    kept = set(np.argsort(-row, kind="stable")[:top_k].tolist())
    assert {sampler.sample(row) for _ in range(20)} <= kept


@given(row=logits, top_p=st.floats(0.01, 0.99), seed=st.integers(0, 2**32))
def test_top_p_never_leaves_the_smallest_sufficient_set(row, top_p, seed):
    sampler = Sampler(SamplingParameters(top_p=top_p, seed=seed))
    probabilities = np.exp(row.astype(np.float64) - row.max())
    probabilities /= probabilities.sum()
    order = np.argsort(-row, kind="stable")
    before = np.concatenate([[0.0], probabilities[order].cumsum()[:-1]])
    kept = set(order[before < top_p + 1e-9].tolist())
    assert {sampler.sample(row) for _ in range(20)} <= kept


def test_the_same_seed_draws_the_same_tokens_and_another_does_not():
    row = np.zeros(1000, np.float32)

    def draw(seed):
        sampler = Sampler(SamplingParameters(top_p=1.0, seed=seed))
        return [sampler.sample(row) for _ in range(8)]

    assert draw(7) == draw(7) != draw(8)


def test_frequencies_follow_temperature():
    row = np.array([0.0, np.log(3.0), -50.0], np.float32)
    for temperature, expected in ((1.0, 0.75), (0.5, 0.9)):
        sampler = Sampler(SamplingParameters(temperature=temperature, top_p=1.0, seed=1))
        share = np.mean([sampler.sample(row) == 1 for _ in range(4000)])
        assert share == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 1.5},
        {"top_p": float("nan")},
    ],
)
def test_senseless_parameters_are_refused(wrong):
    with pytest.raises(RequestError, match=next(iter(wrong))):
        SamplingParameters(**wrong)
