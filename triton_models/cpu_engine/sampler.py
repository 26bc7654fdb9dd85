"""Chooses the next token from a row of logits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from triton_models.cpu_engine.errors import RequestError

_FIRST_CANDIDATES = 256
_MORE_CANDIDATES = 16  # times as many, where the first do not have the probability wanted


@dataclass(frozen=True, slots=True)
class SamplingParameters:
    """TensorRT-LLM's sampling parameters, with its defaults.

    `top_k` 0 and `top_p` <= 0 are unset; with both unset, or `top_k` 1, or temperature 0, decoding is greedy.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 0.0
    seed: int = 0
    """Two requests with the same seed, prompt and parameters draw the same tokens."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.temperature) or self.temperature < 0:
            raise RequestError(
                f"Invalid temperature ({self.temperature}). temperature must be finite and >= 0"
            )
        if self.top_k < 0:
            raise RequestError(f"Invalid runtime_top_k ({self.top_k}). runtime_top_k must be >= 0")
        if not self.top_p <= 1.0:
            raise RequestError(f"Invalid runtime_top_p ({self.top_p}). runtime_top_p must be <= 1")

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is always taken."""
        return self.temperature == 0 or self.top_k == 1 or (self.top_k == 0 and self.top_p <= 0)


class Sampler:
    """One sequence's sampling state: its parameters and its random numbers."""

    def __init__(self, parameters: SamplingParameters) -> None:
        self._parameters = parameters
        self._random = np.random.Generator(np.random.Philox(parameters.seed))

    def sample(self, logits: npt.NDArray[np.float32]) -> int:
        """The next token.

        Draws one random number for each token, so that other requests of the batch never change a draw.

        Args:
            logits: [vocabulary], finite.
        """
        own = self._parameters
        if own.greedy:
            return int(logits.argmax())
        if own.top_k:
            candidates = _largest(logits, own.top_k)
            weights = _weights(logits[candidates], logits[candidates[0]], own.temperature)
            wanted = own.top_p * weights.sum() if own.top_p < 1 else math.inf
            return int(candidates[self._draw(weights, wanted)])
        weights = _weights(logits, logits.max(), own.temperature)
        if own.top_p >= 1:
            return self._draw(weights, math.inf)  # in the vocabulary's own order: every token may be drawn
        # The smallest set whose probability reaches top_p (Holtzman et al. 2020), sought among ever more candidates.
        wanted = own.top_p * weights.sum()
        count = _FIRST_CANDIDATES
        candidates = _largest(logits, count)
        while count < len(logits) and weights[candidates].cumsum()[-1] < wanted:
            count *= _MORE_CANDIDATES  # proven: enough-candidates
            candidates = _largest(logits, count)
        return int(candidates[self._draw(weights[candidates], wanted)])

    def _draw(self, weights: npt.NDArray[np.float64], wanted: float) -> int:
        """Draw from the first weights whose sum reaches `wanted`; from all where that is 0 or never reached."""
        cumulative = weights.cumsum()
        if 0 < wanted < cumulative[-1]:
            cumulative = cumulative[: int(np.searchsorted(cumulative, wanted)) + 1]
        uniform = self._random.random() * cumulative[-1]  # proven: drawn-from-what-is-kept
        drawn = int(np.searchsorted(cumulative, uniform, side="right"))
        return min(drawn, len(cumulative) - 1)


def _largest(logits: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.intp]:
    """Indices of the largest values, largest first, equal ones in order; a sort of all takes 20 times as long."""
    if count >= len(logits):
        return np.argsort(-logits, kind="stable")
    least = np.partition(logits, len(logits) - count)[len(logits) - count]
    above = np.flatnonzero(logits > least)
    equal = np.flatnonzero(logits == least)[: count - len(above)]  # proven: ties-in-order
    places = np.concatenate([above, equal])
    return places[np.argsort(-logits[places], kind="stable")]


def _weights(
    logits: npt.NDArray[np.float32], largest: np.float32, temperature: float
) -> npt.NDArray[np.float64]:
    with np.errstate(over="ignore"):  # a temperature near 0 makes all but the largest infinitely small
        weights: npt.NDArray[np.float64] = np.exp((logits.astype(np.float64) - largest) / temperature)
    return weights
