"""Chooses the next token from a row of logits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from triton_models.cpu_engine.errors import RequestError


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

        One random number is drawn a token, whatever else is in the batch: neighbours never change a draw.

        Args:
            logits: [vocabulary], finite.
        """
        own = self._parameters
        if own.greedy:
            return int(logits.argmax())
        order = np.argsort(-logits, kind="stable")
        if own.top_k:
            order = order[: own.top_k]
        scaled = logits[order].astype(np.float64) / own.temperature
        probabilities = np.exp(scaled - scaled[0])
        probabilities /= probabilities.sum()
        cumulative = probabilities.cumsum()
        if 0 < own.top_p < 1:  # the smallest set whose probability reaches top_p (Holtzman et al. 2020)
            kept = int(np.searchsorted(cumulative, own.top_p)) + 1
            cumulative = cumulative[:kept]
        drawn = int(np.searchsorted(cumulative, self._random.random() * cumulative[-1], side="right"))
        return int(order[min(drawn, len(cumulative) - 1)])
