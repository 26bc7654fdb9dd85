from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.fakes.mutants import changed
from triton_models.cpu_engine import sampler
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
    drawing = Sampler(SamplingParameters(top_k=top_k, seed=seed, temperature=2.0))
    kept = set(np.argsort(-row, kind="stable")[:top_k].tolist())
    assert {drawing.sample(row) for _ in range(20)} <= kept


@given(row=logits, top_p=st.floats(0.01, 0.99), seed=st.integers(0, 2**32))
def test_top_p_never_leaves_the_smallest_sufficient_set(row, top_p, seed):
    drawing = Sampler(SamplingParameters(top_p=top_p, seed=seed))
    probabilities = np.exp(row.astype(np.float64) - row.max())
    probabilities /= probabilities.sum()
    order = np.argsort(-row, kind="stable")
    before = np.concatenate([[0.0], probabilities[order].cumsum()[:-1]])
    kept = set(order[before < top_p + 1e-9].tolist())
    assert {drawing.sample(row) for _ in range(20)} <= kept


def plainly_sampled(row, parameters, uniform):
    """What the sampler does, by a sort of the whole vocabulary."""
    order = np.argsort(-row, kind="stable")
    weights = np.exp((row.astype(np.float64) - row.max()) / parameters.temperature)
    total = weights.sum()
    if parameters.top_k:
        order = order[: parameters.top_k]
        total = weights[order].sum()
    elif parameters.top_p >= 1:
        order = np.arange(len(row))
    cumulative = weights[order].cumsum()
    if 0 < parameters.top_p < 1:
        reached = [place for place, mass in enumerate(cumulative) if mass >= parameters.top_p * total]
        cumulative = cumulative[: (reached or [len(row)])[0] + 1]
    drawn = sum(mass <= uniform * cumulative[-1] for mass in cumulative.tolist())
    return int(order[min(drawn, len(cumulative) - 1)])


def agrees(subject, row, parameters):
    uniforms = np.random.Generator(np.random.Philox(parameters.seed)).random(4)
    drawn = subject.Sampler(parameters)
    return all(drawn.sample(row) == plainly_sampled(row, parameters, uniform) for uniform in uniforms)


# Rounded to few values, so that ties are common and fall across the ends of every kept set.
rows = st.builds(
    lambda seed, size, spread: (
        np.rint(np.random.default_rng(seed).normal(0, spread, size) * 4).astype(np.float32) / 4
    ),
    st.integers(0, 2**32),
    st.sampled_from([1, 2, 255, 256, 257, 5000]),
    st.sampled_from([0.0, 0.5, 3.0, 30.0]),
)
choices = st.builds(
    SamplingParameters,
    temperature=st.sampled_from([1e-300, 0.01, 0.7, 1.0, 5.0]),
    top_k=st.sampled_from([0, 2, 50, 256, 10_000]),
    top_p=st.sampled_from([0.0, 1e-9, 0.5, 0.9, 0.999999999, 1.0]),
    seed=st.integers(0, 2**64 - 1),
).filter(lambda parameters: not parameters.greedy)


@settings(deadline=None)
@given(row=rows, parameters=choices)
def test_it_draws_what_a_sort_of_everything_would(row, parameters):
    assert agrees(sampler, row, parameters)


@pytest.mark.parametrize(
    ("rule", "instead", "parameters"),
    [
        (
            "ties-in-order",
            "equal = np.flatnonzero(logits == least)[len(above) - count :]",
            SamplingParameters(top_k=50),
        ),
        ("enough-candidates", "break", SamplingParameters(top_p=0.9)),
        ("drawn-from-what-is-kept", "uniform = self._random.random()", SamplingParameters(top_p=0.9)),
    ],
)
def test_that_test_notices_ties_in_another_order_and_sets_too_small(rule, instead, parameters):
    row = np.zeros(5000, np.float32)
    assert agrees(sampler, row, parameters)
    assert not agrees(changed(sampler, rule, instead), row, parameters)


def test_the_same_seed_draws_the_same_tokens_and_another_does_not():
    row = np.zeros(1000, np.float32)

    def draw(seed):
        drawing = Sampler(SamplingParameters(top_p=1.0, seed=seed))
        return [drawing.sample(row) for _ in range(8)]

    assert draw(7) == draw(7) != draw(8)


def test_frequencies_follow_temperature():
    row = np.array([0.0, np.log(3.0), -50.0], np.float32)
    for temperature, expected in ((1.0, 0.75), (0.5, 0.9)):
        drawing = Sampler(SamplingParameters(temperature=temperature, top_p=1.0, seed=1))
        share = np.mean([drawing.sample(row) == 1 for _ in range(4000)])
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
